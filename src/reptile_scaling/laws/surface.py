"""Laws of several quantities, `L = floor + Σ_j a_j · x_j^-β_j`, by variable projection over a grid of exponents.

The form of Hoffmann et al. 2022 (arXiv:2203.15556) with two terms: model size and data. Legend: `R` rows ·
`J` terms · `G` grid points.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares, nnls

from reptile_scaling.errors import InputError

_EXPONENTS = np.geomspace(0.05, 2.0, 14)
# The grid is 30 % apart; the best ten starts lie in more than one cell of the valley, and all of them are polished.
_POLISHED = 10


@dataclass(frozen=True)
class Surface:
    """Fitted floor, amplitudes and exponents; `objective` is the sum of Huber losses of log residuals."""

    floor: float
    amplitudes: tuple[float, ...]
    exponents: tuple[float, ...]
    objective: float
    converged: bool

    def predict(self, x: Float[np.ndarray, "R J"]) -> Float[np.ndarray, " R"]:
        """The loss at each row of x."""
        terms = np.asarray(self.amplitudes) * x ** -np.asarray(self.exponents)
        return np.asarray(self.floor + terms.sum(axis=1))


def fit_surface(x: Float[np.ndarray, "R J"], y: Float[np.ndarray, " R"], *, huber_delta: float = 1e-3) -> Surface:
    """Minimise Σ Huber_δ(log y − log L); δ = 1e-3 is the published choice (Besiroglu et al. 2024, arXiv:2404.10102).

    At every grid point of exponents the rest is a non-negative linear problem; the best points are then polished
    together with their exponents. Raises InputError for fewer rows than parameters or values that are not positive.
    """
    n_rows, n_terms = x.shape
    if n_rows <= 2 * n_terms + 1:
        raise InputError(f"{n_rows} rows for {2 * n_terms + 1} parameters: give more rows than parameters.")
    if not ((x > 0).all() and (y > 0).all()):
        raise InputError(f"a value of {min(x.min(), y.min()):g} has no logarithm: drop that row.")
    centre = np.exp(np.log(x).mean(axis=0))
    starts = [_project(x / centre, y, np.array(exponents)) for exponents in product(_EXPONENTS, repeat=n_terms)]
    best = sorted(starts, key=lambda start: start.relative_norm)[:_POLISHED]
    return min((_polish(x, y, centre, start, huber_delta) for start in best), key=lambda fit: fit.objective)


@dataclass(frozen=True)
class _Start:
    """A grid point of exponents with the exact solution of everything else, for x scaled by its geometric mean."""

    relative_norm: float
    coefficients: Float[np.ndarray, " J1"]
    exponents: Float[np.ndarray, " J"]


def _project(x: Float[np.ndarray, "R J"], y: Float[np.ndarray, " R"], exponents: Float[np.ndarray, " J"]) -> _Start:
    design = np.column_stack([np.ones(len(y)), x**-exponents])
    coefficients, norm = nnls(design / y[:, None], np.ones(len(y)))
    return _Start(float(norm), coefficients, exponents)


def _polish(
    x: Float[np.ndarray, "R J"],
    y: Float[np.ndarray, " R"],
    centre: Float[np.ndarray, " J"],
    start: _Start,
    delta: float,
) -> Surface:
    """All parameters together, coefficients as logs so that they stay positive."""
    n_terms = len(centre)
    log_x, log_y = np.log(x / centre), np.log(y)

    def residual(p: Float[np.ndarray, " P"]) -> Float[np.ndarray, " R"]:
        terms = np.exp(p[1 : n_terms + 1] - p[n_terms + 1 :] * log_x)
        return np.asarray(log_y - np.log(np.exp(p[0]) + terms.sum(axis=1)))

    smallest = 1e-3 * float(y.min())  # a coefficient of 0 has no logarithm to start from
    begin = np.concatenate([np.log(np.maximum(start.coefficients, smallest)), start.exponents])
    fit = least_squares(residual, begin, loss="huber", f_scale=delta, x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    exponents = fit.x[n_terms + 1 :]
    amplitudes = np.exp(fit.x[1 : n_terms + 1] + exponents * np.log(centre))
    return Surface(
        float(np.exp(fit.x[0])), tuple(amplitudes.tolist()), tuple(exponents.tolist()), float(fit.cost), fit.success
    )
