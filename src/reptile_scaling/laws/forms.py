"""The forms a law can have, each with all its functions; given one outer number every form is linear in the rest.

A new form is a `Form` here and a line in `FORMS`: nothing elsewhere asks for a form by name to compute with it.
The smooth break and the step between two plateaus are broken neural scaling laws with one break (Caballero et al. 2023,
arXiv:2210.14891): the first without an end, the second with c0 = 0 and c1 f1 = 1.
Legend of array suffixes: `B` tables fitted at once · `G` outer values tried · `K` levels · `M` points · `Q` columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from reptile_scaling.errors import InputError
from reptile_scaling.laws import linear

# Steepest exponent searched: over a range of 100× in x it is a fall of 10¹²; data never asks for more.
MAX_EXPONENT = 6.0
# Below this a power with floor is a straight line in log x to 1 % over a range of 100×: log_linear says it better.
MIN_FLOOR_EXPONENT = 0.02

Columns = list[np.ndarray]


def _no_columns(log_x: np.ndarray, outer: np.ndarray, shape: float) -> Columns:
    return []


def _no_outer(x: np.ndarray) -> np.ndarray:
    return np.zeros(1)


def _log_gap(y: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(y) - np.log(fitted))


def _no_doubt(parameters: np.ndarray, at_bound: bool) -> str:
    return ""


@dataclass(frozen=True)
class Form:
    """One formula with what a fit, a prediction and a sentence need of it.

    `curve(p, log_x)` is the value for parameters `p` (a column `[B, 1]` each) at `log_x[1, M]`: `[B, M]`.
    `outer_grid(x)` are the outer values tried before refining, one dummy where there is none.
    `columns(log_x, outer, shape)` are the columns beside the intercept, `[B, G, K]` each, for x scaled by its
    geometric mean; `solve` finds their coefficients (see linear.py) and
    `to_parameters(outer, coefficients, log_reference, shape)` undoes the scaling.
    `shapes` are the values tried of a second outer number, too loosely tied to data to be refined between them.
    `invert(p, target)` is the x at which a falling curve is down to `target`, NaN or infinite where it never is.
    `words(x_name, say)` tells what the form does; `say(name)` is a parameter with its interval, `say.value` its value.
    `log_residual(y, fitted)` is what least squares squares where noise is relative. `doubt(parameters, at_bound)` says
    why a fit identifies nothing, or nothing. `exponent` is the parameter that two arms are compared by; `profiled`
    whether it is the outer number. A form with `min_levels_to_fit` levels is fitted, with `min_levels` identified.
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    min_levels: int
    min_levels_to_fit: int
    curve: Callable[[Columns, np.ndarray], np.ndarray]
    solve: linear.Solver
    to_parameters: Callable[[np.ndarray, Columns, float, np.ndarray], Columns]
    invert: Callable[[Columns, float], np.ndarray]
    words: Callable[[str, "Say"], str]
    outer_grid: Callable[[np.ndarray], np.ndarray] = _no_outer
    columns: Callable[[np.ndarray, np.ndarray, float], Columns] = _no_columns
    shapes: tuple[float, ...] = (0.0,)
    log_residual: Callable[[np.ndarray, np.ndarray], np.ndarray] = _log_gap
    doubt: Callable[[np.ndarray, bool], str] = _no_doubt
    exponent: str | None = None
    profiled: bool = False
    outer_is_a_position: bool = False
    needs_positive_losses: bool = False

    @property
    def n_searched(self) -> int:
        """Parameters, and one more for a place that is searched for, since chance finds one in any noise.

        Without a break its place is not identified, and the best of many is found by chance more often than
        χ²(1) says (Davies 1987).
        """
        return len(self.parameters) + self.outer_is_a_position

    @property
    def n_parameters(self) -> int:
        """How many numbers the formula has."""
        return len(self.parameters)


@dataclass(frozen=True)
class Say:
    """Parameters of a fit as words: called with a name, its value with the interval; `value`, the number alone."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    why_no_interval: str

    def __call__(self, name: str) -> str:
        """The parameter to three digits with its 95 % interval, or with the reason why there is none."""
        if name not in self.intervals:
            return f"{self.values[name]:.3g} (no interval: {self.why_no_interval})"
        low, high = self.intervals[name]
        return f"{self.values[name]:.3g} (95 % interval {low:.3g} to {high:.3g})"


def evaluate(
    form: Form, parameters_BP: Float[np.ndarray, "B P"], x: Float[np.ndarray, " M"]
) -> Float[np.ndarray, "B M"]:
    """The form's value for each of B parameter vectors at each x: `[B, M]`; infinite where a power overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        value = form.curve([column[:, None] for column in parameters_BP.T], np.log(x)[None, :])
        return np.broadcast_to(value, (len(parameters_BP), x.size)).copy()


def form_named(name: str) -> Form:
    """The form of that name; InputError with the names there are for any other."""
    if name not in FORMS:
        raise InputError(f"form = '{name}' is unknown: choose one of {', '.join(FORMS)}.")
    return FORMS[name]


def _power_column(log_x: np.ndarray, outer: np.ndarray, shape: float) -> Columns:
    return [np.exp(-outer[..., None] * log_x)]


def _line_column(log_x: np.ndarray, outer: np.ndarray, shape: float) -> Columns:
    return [np.broadcast_to(-log_x, (*outer.shape, log_x.size))]


def _broken_columns(log_x: np.ndarray, outer: np.ndarray, shape: float) -> Columns:
    distance = log_x - outer[..., None]
    return [-np.minimum(distance, 0.0), -np.maximum(distance, 0.0)]


def _softplus(distance: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """width · log(1 + exp(distance / width)): max(distance, 0) with its corner rounded off over `width`."""
    return np.asarray(width * np.logaddexp(0.0, distance / width))


def _smooth_columns(log_x: np.ndarray, outer: np.ndarray, shape: float) -> Columns:
    distance = log_x - outer[..., None]
    after = _softplus(distance, shape)
    return [after - distance, -after]


def _smooth_curve(p: Columns, log_x: np.ndarray) -> np.ndarray:
    distance = log_x - np.log(p[3])
    after = _softplus(distance, p[4])
    return np.asarray(p[0] * np.exp(-p[1] * (distance - after) - p[2] * after))


def _invert_smooth(p: Columns, target: float) -> np.ndarray:
    """By bisection in log x over 24 decades around the break; the curve falls wherever its exponents are positive."""
    columns = [np.asarray(column)[:, None] for column in p]
    low, high = np.log(p[3]) - 27.6, np.log(p[3]) + 27.6
    falls = (p[2] > 0) & (_smooth_curve(columns, high[:, None])[:, 0] <= target)
    for _ in range(60):
        middle = (low + high) / 2
        above = _smooth_curve(columns, middle[:, None])[:, 0] > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(falls, np.exp(high), np.inf)


def _step_column(log_x: np.ndarray, outer: np.ndarray, shape: float) -> Columns:
    return [expit(-shape * (log_x - outer[..., None]))]


def _invert_step(p: Columns, target: float) -> np.ndarray:
    reached = (target > p[1]) & (target < p[1] + p[0])
    return np.where(reached, p[2] * ((p[0] + p[1] - target) / (target - p[1])) ** (1.0 / p[3]), np.inf)


def _broken_curve(p: Columns, log_x: np.ndarray) -> np.ndarray:
    distance = log_x - np.log(p[3])
    return np.asarray(p[0] * np.exp(-np.where(distance < 0, p[1], p[2]) * distance))


def _invert_broken(p: Columns, target: float) -> np.ndarray:
    slope = np.where(target >= p[0], p[1], p[2])
    return np.where(slope > 0, p[3] * (p[0] / target) ** (1.0 / slope), np.inf)


def _invert_floor(p: Columns, target: float) -> np.ndarray:
    return np.where((target > p[2]) & (p[0] > 0), (p[0] / (target - p[2])) ** (1.0 / p[1]), np.inf)


def _floor_doubt(parameters: np.ndarray, at_bound: bool) -> str:
    amplitude, beta, _ = parameters.tolist()
    if amplitude == 0.0:
        return "the loss does not fall, so nothing decays to a floor"
    if not at_bound:
        return ""
    end = "straight in log {x}" if beta < 1 else "a single step"
    return f"beta = {beta:.3g} is at the end of the searched range: the data look like {end}"


CONSTANT = Form(
    "constant", "a", ("a",), 1, 1,
    curve=lambda p, log_x: p[0],
    solve=linear.solve_constant,
    to_parameters=lambda outer, c, log_ref, shape: c,
    invert=lambda p, target: np.where(p[0] <= target, 1.0, np.inf),
    words=lambda x, say: f"stays the same over {x}: {say('a')}",
)  # fmt: skip
POWER = Form(
    "power", "a * {x}^-beta", ("a", "beta"), 3, 2,
    curve=lambda p, log_x: p[0] * np.exp(-p[1] * log_x),
    outer_grid=lambda x: np.sinh(np.linspace(-1.0, 1.0, 81) * np.arcsinh(MAX_EXPONENT / 0.2)) * 0.2,
    columns=_power_column,
    solve=linear.solve_power,
    to_parameters=lambda outer, c, log_ref, shape: [c[0] * np.exp(outer * log_ref), outer],
    invert=lambda p, target: np.where(p[1] > 0, (p[0] / target) ** (1.0 / p[1]), np.inf),
    words=lambda x, say: f"falls as a power of {x}: β = {say('beta')}",
    exponent="beta",
    profiled=True,
)  # fmt: skip
POWER_FLOOR = Form(
    "power_floor", "floor + a * {x}^-beta", ("a", "beta", "floor"), 5, 5,
    curve=lambda p, log_x: p[2] + p[0] * np.exp(-p[1] * log_x),
    outer_grid=lambda x: np.geomspace(MIN_FLOOR_EXPONENT, MAX_EXPONENT, 72),
    columns=_power_column,
    solve=linear.solve_with_floor,
    to_parameters=lambda outer, c, log_ref, shape: [c[1] * np.exp(outer * log_ref), outer, c[0]],
    invert=_invert_floor,
    words=lambda x, say: f"falls as a power of {x} to a floor of {say('floor')}: β = {say('beta')}",
    doubt=_floor_doubt,
    exponent="beta",
    profiled=True,
)  # fmt: skip
LOG_LINEAR = Form(
    "log_linear", "a - b * log({x})", ("a", "b"), 3, 2,
    curve=lambda p, log_x: p[0] - p[1] * log_x,
    columns=_line_column,
    solve=linear.solve_line,
    to_parameters=lambda outer, c, log_ref, shape: [c[0] + c[1] * log_ref, c[1]],
    invert=lambda p, target: np.where(p[1] > 0, np.exp((p[0] - target) / p[1]), np.inf),
    words=lambda x, say: (
        f"falls in a straight line over log {x}, by {say.values['b'] * np.log(10.0):.3g} for every factor of ten"
    ),
    # A straight line in log x may cross 0, where no logarithm is.
    log_residual=lambda y, fitted: (y - fitted) / y,
    exponent="b",
)  # fmt: skip
BROKEN = Form(
    "broken", "a * ({x} / n_break)^-(beta below n_break, beta_after above)",
    ("a", "beta", "beta_after", "n_break"), 6, 6,
    curve=_broken_curve,
    # Two levels at least on either side of the break: a segment through one point fits anything.
    outer_grid=lambda x: np.linspace(np.log(x[1]), np.log(x[-2]), 41),
    columns=_broken_columns,
    solve=linear.solve_log_line,
    to_parameters=lambda outer, c, log_ref, shape: [np.exp(c[0]), c[1], c[2], np.exp(outer)],
    invert=_invert_broken,
    words=lambda x, say: f"falls as a power of {x} that changes at {say('n_break')}: "
    f"β = {say('beta')} before it, {say('beta_after')} after it",
    outer_is_a_position=True,
    needs_positive_losses=True,
)  # fmt: skip
SMOOTH_BREAK = Form(
    "smooth_break", "a * ({x} / n_break)^-beta * (1 + ({x} / n_break)^(1 / width))^-(width * (beta_after - beta))",
    ("a", "beta", "beta_after", "n_break", "width"), 7, 7,
    curve=_smooth_curve,
    outer_grid=lambda x: np.linspace(np.log(x[1]), np.log(x[-2]), 41),
    columns=_smooth_columns,
    # In e-folds of x; narrower than a third is the sharp break, wider than two bends over two decades.
    shapes=(0.35, 0.7, 1.4),
    solve=linear.solve_log_line,
    to_parameters=lambda outer, c, log_ref, shape: [np.exp(c[0]), c[1], c[2], np.exp(outer), shape],
    invert=_invert_smooth,
    words=lambda x, say: f"falls as a power of {x} that bends around {say('n_break')}: "
    f"β = {say('beta')} long before it, {say('beta_after')} long after it",
    outer_is_a_position=True,
    needs_positive_losses=True,
)  # fmt: skip
TWO_PLATEAUS = Form(
    "two_plateaus", "floor + drop / (1 + ({x} / n_drop)^steepness)", ("drop", "floor", "n_drop", "steepness"), 6, 6,
    curve=lambda p, log_x: p[1] + p[0] * expit(-p[3] * (log_x - np.log(p[2]))),
    outer_grid=lambda x: np.linspace(np.log(x[1] * x[0]) / 2, np.log(x[-2] * x[-1]) / 2, 41),
    columns=_step_column,
    # From a fall over two decades to one between neighbouring levels.
    shapes=(1.0, 2.0, 4.0, 8.0),
    solve=linear.solve_with_floor,
    to_parameters=lambda outer, c, log_ref, shape: [c[1], c[0], np.exp(outer), shape],
    invert=_invert_step,
    words=lambda x, say: f"falls from one plateau to another around {x} = {say('n_drop')}, by {say('drop')}",
    outer_is_a_position=True,
)  # fmt: skip
FORMS: dict[str, Form] = {
    form.name: form for form in (POWER, POWER_FLOOR, LOG_LINEAR, CONSTANT, BROKEN, SMOOTH_BREAK, TWO_PLATEAUS)
}
# Forms with a place where something happens: none is a simple law, and each is found by chance more often than others.
PLACED = tuple(name for name, form in FORMS.items() if form.outer_is_a_position)
