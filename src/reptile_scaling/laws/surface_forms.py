"""Surfaces L(N, z): what meta-steps, inner steps or classes do to a law over tasks.

Given its outer numbers a surface is `Σ coefficient · column` with coefficients ≥ 0; the first column is 1 (the floor).
Legend: `R` rows · `J` columns · `H` outer numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class SurfaceForm:
    """A formula of N and z; `columns(N, z, outer)` are the columns beside the floor, `outer_names` have a grid each.

    An outer number is one `[]` or one for each of many tables `[B, 1]`, and so are the columns `[R]` or `[B, R]`.
    `amplitudes` names the coefficients, floor first.
    """

    name: str
    formula: str
    amplitudes: tuple[str, ...]
    outer_names: tuple[str, ...]
    grids: tuple[np.ndarray, ...]
    columns: Callable[[np.ndarray, np.ndarray, np.ndarray], list[np.ndarray]]

    @property
    def parameters(self) -> tuple[str, ...]:
        """All numbers of the formula, coefficients first."""
        return (*self.amplitudes, *self.outer_names)


def effective_tasks(
    n_tasks: Float[np.ndarray, " R"], visits: Float[np.ndarray, " R"], worth: float | Float[np.ndarray, "B 1"]
) -> Float[np.ndarray, "*B R"]:
    """What N tasks seen `visits` times each are worth in tasks seen once, for one `worth` or many.

    Muennighoff et al. 2023 (arXiv:2305.16264), their D' = U + U·R*·(1 − exp(−R / R*)) with R = visits − 1 repetitions
    and R* = `worth`: a repetition is worth 1 / e of a new task after R* of them. Below one visit, tasks seen count.
    """
    repeated = np.maximum(visits - 1.0, 0.0)
    return np.asarray(n_tasks * (np.minimum(visits, 1.0) + worth * -np.expm1(-repeated / worth)))


def _meta_step_columns(n_tasks: np.ndarray, visits: np.ndarray, outer: np.ndarray) -> list[np.ndarray]:
    beta, worth, gamma = outer
    return [effective_tasks(n_tasks, visits, worth) ** -beta, visits**gamma]


def _inner_step_columns(n_tasks: np.ndarray, steps: np.ndarray, outer: np.ndarray) -> list[np.ndarray]:
    alpha, worth, head_start = outer
    return [((steps + head_start) * n_tasks**worth) ** -alpha]


def _class_columns(n_tasks: np.ndarray, n_classes: np.ndarray, outer: np.ndarray) -> list[np.ndarray]:
    beta, gamma = outer
    return [n_tasks**-beta, n_classes**-gamma]


_EXPONENTS = np.geomspace(0.05, 2.0, 8)
META_STEPS = SurfaceForm(
    "meta_steps", "floor + a * tasks_worth(N, visits; worth)^-beta + harm * visits^gamma",
    ("floor", "a", "harm"), ("beta", "worth", "gamma"),
    (_EXPONENTS, np.geomspace(0.5, 200.0, 7), np.geomspace(0.25, 2.0, 4)), _meta_step_columns,
)  # fmt: skip
INNER_STEPS = SurfaceForm(
    "inner_steps", "floor + a * ((steps + head_start) * N^worth)^-alpha",
    ("floor", "a"), ("alpha", "worth", "head_start"),
    (_EXPONENTS, np.array([-0.3, -0.1, 0.0, 0.1, 0.3, 0.6, 1.0]), np.geomspace(0.1, 10.0, 5)), _inner_step_columns,
)  # fmt: skip
CLASSES = SurfaceForm(
    "classes", "floor + a * N^-beta + b * C^-gamma",
    ("floor", "a", "b"), ("beta", "gamma"), (_EXPONENTS, _EXPONENTS), _class_columns,
)  # fmt: skip
