"""The forms a law can have: given one outer number (an exponent or a break) every one is linear.

Legend of array suffixes: `B` tables fitted at once · `G` outer values tried · `K` levels · `Q` columns.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

FormName = Literal["constant", "power", "power_floor", "log_linear", "broken"]

# Steepest exponent searched: over a range of 100× in N it is a fall of 10¹²; data never asks for more.
MAX_EXPONENT = 6.0
# Below this a power with floor is a straight line in log N to 1 % over a range of 100×: log_linear says it better.
MIN_FLOOR_EXPONENT = 0.02


@dataclass(frozen=True)
class Form:
    """One formula: its parameters in order, and how many levels of N it takes to say anything about them."""

    name: FormName
    formula: str
    parameters: tuple[str, ...]
    min_levels: int

    @property
    def n_parameters(self) -> int:
        return len(self.parameters)


CONSTANT = Form("constant", "a", ("a",), 1)
POWER = Form("power", "a * N^-beta", ("a", "beta"), 3)
POWER_FLOOR = Form("power_floor", "floor + a * N^-beta", ("a", "beta", "floor"), 5)
LOG_LINEAR = Form("log_linear", "a - b * log(N)", ("a", "b"), 3)
BROKEN = Form(
    "broken", "a * (N / n_break)^-(beta below n_break, beta_after above)", ("a", "beta", "beta_after", "n_break"), 6
)
FORMS: dict[str, Form] = {form.name: form for form in (POWER, POWER_FLOOR, LOG_LINEAR, CONSTANT, BROKEN)}
SIMPLE_FORMS = (CONSTANT, POWER, LOG_LINEAR, POWER_FLOOR)


def evaluate(
    form: Form, parameters_BP: Float[np.ndarray, "B P"], x: Float[np.ndarray, " M"]
) -> Float[np.ndarray, "B M"]:
    """The form's value for each of B parameter vectors at each x: `[B, M]`; infinite where a power overflows."""
    p = [column[:, None] for column in parameters_BP.T]
    log_x = np.log(x)[None, :]
    with np.errstate(over="ignore", invalid="ignore"):
        match form.name:
            case "constant":
                return np.broadcast_to(p[0], (len(parameters_BP), x.size)).copy()
            case "power":
                return np.asarray(p[0] * np.exp(-p[1] * log_x))
            case "power_floor":
                return np.asarray(p[2] + p[0] * np.exp(-p[1] * log_x))
            case "log_linear":
                return np.asarray(p[0] - p[1] * log_x)
            case "broken":
                distance = log_x - np.log(p[3])
                return np.asarray(p[0] * np.exp(-np.where(distance < 0, p[1], p[2]) * distance))


def outer_grid(form: Form, x: Float[np.ndarray, " K"]) -> Float[np.ndarray, " G"]:
    """Outer values tried before refining: exponents, dense near 0, or logs of the break; one dummy where none."""
    match form.name:
        case "power":
            return np.asarray(np.sinh(np.linspace(-1.0, 1.0, 81) * np.arcsinh(MAX_EXPONENT / 0.2)) * 0.2)
        case "power_floor":
            return np.geomspace(MIN_FLOOR_EXPONENT, MAX_EXPONENT, 72)
        case "broken":
            # Two levels at least on either side of the break: a segment through one point fits anything.
            return np.linspace(np.log(x[1]), np.log(x[-2]), 41)
        case _:
            return np.zeros(1)


def columns(
    form: Form, log_x_K: Float[np.ndarray, " K"], outer_BG: Float[np.ndarray, "#B G"]
) -> list[Float[np.ndarray, "#B G K"]]:
    """The columns beside the intercept, `[B, G, K]` each, for x scaled by its geometric mean (`log_x_K` centred)."""
    match form.name:
        case "power" | "power_floor":
            return [np.exp(-outer_BG[..., None] * log_x_K)]
        case "log_linear":
            return [np.broadcast_to(-log_x_K, (*outer_BG.shape, log_x_K.size))]
        case "broken":
            distance = log_x_K - outer_BG[..., None]
            return [-np.minimum(distance, 0.0), -np.maximum(distance, 0.0)]
        case _:
            return []
