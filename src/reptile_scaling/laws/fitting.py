"""Variable projection: search the one outer number, solve the rest exactly, for many tables at once.

No start values and no local minimum missed: the outer number is tried on a grid over its whole range and the
best cell is refined until it is known to the last digits. Golub & Pereyra 1973 for the idea.
Legend: `B` tables · `G` outer values · `K` levels · `P` parameters · `Q` coefficients, intercept first.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from reptile_scaling.laws.forms import Form, evaluate
from reptile_scaling.laws.linear import Residual, problem

# (rounds, points): n points over a bracket of two cells shrink it (n − 1) / 2-fold a round.
_REFINE_EXACT = (6, 65)  # 32⁶ = 10⁹: a sum of squares fixes its minimum to the root of the machine's precision
_REFINE_DRAWS = (4, 9)  # 4⁴ = 256: a bootstrap draw needs its exponent to a hundredth of any interval's width
HUBER_DELTA = 1.345  # standard deviations; 95 % efficient when the noise is Gaussian after all (Huber 1964)


@dataclass(frozen=True)
class Fits:
    """One form fitted to B tables: parameters `[B, P]`, weighted squares `[B]`, bounds hit by the outer number."""

    parameters: Float[np.ndarray, "B P"]
    rss: Float[np.ndarray, " B"]
    at_bound: Bool[np.ndarray, " B"]


def fit_many(
    form: Form,
    x: Float[np.ndarray, " K"],
    y: Float[np.ndarray, "B K"],
    weights: Float[np.ndarray, "#B K"],
    *,
    residual: Residual,
    exact: bool = True,
) -> Fits:
    """Least squares of `form` to each row of `y[B, K]` with weights `[B, K]` (or `[1, K]` for all); rss is a sum.

    `residual` is log y − log form ("log": noise grows with the loss, y > 0; floor and amplitude stay ≥ 0) or
    y − form ("plain"); a form may have a log residual of its own.
    """
    all_weights = np.broadcast_to(weights, y.shape)
    found = _search(form, x, y, all_weights, residual, exact)
    parameters, outer = _parameters(form, found, float(np.log(x).mean())), found.outer
    with np.errstate(all="ignore"):  # at a level left out (weight 0) a curve may be anywhere
        squares = all_weights * residuals(form, parameters, x, y, residual) ** 2
    grid = form.outer_grid(x)
    near = 1e-6 * (grid[-1] - grid[0])
    at_bound = (np.abs(outer - grid[0]) <= near) | (np.abs(outer - grid[-1]) <= near)
    return Fits(parameters, np.sum(squares, axis=-1, where=all_weights > 0), at_bound & (grid.size > 1))


def residuals(
    form: Form,
    parameters: Float[np.ndarray, "B P"],
    x: Float[np.ndarray, " K"],
    y: Float[np.ndarray, "#B K"],
    residual: Residual,
) -> Float[np.ndarray, "B K"]:
    """What least squares squares: `[B, K]`."""
    fitted = evaluate(form, parameters, x)
    if residual == "plain":
        return np.asarray(y - fitted)
    return np.asarray(form.log_residual(y, fitted))


def fit_huber(
    form: Form,
    x: Float[np.ndarray, " R"],
    y: Float[np.ndarray, " R"],
    residual: Residual,
    spread: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " P"]:
    """Huber's estimate from single rows (a mean hides the one seed that went astray), by reweighting to rest.

    The scale is the normalised median absolute residual of each round, in units of each level's noise (`spread`).
    """
    row_spread = spread[np.unique(x, return_inverse=True)[1]]
    weights = 1.0 / row_spread**2
    parameters = _fit_rows(form, x, y, weights, residual)
    for _ in range(20):  # the change shrinks three-fold a round or faster in all worlds tried: 1e-4 within 10
        distance = np.abs(residuals(form, parameters, x, y[None], residual)[0]) / row_spread
        scale = float(np.median(distance)) / 0.6745  # the median of |z|, so that it estimates a Gaussian's σ
        if scale <= 1e-12 * (1.0 if residual == "log" else float(np.abs(y).max())):
            break
        previous = parameters
        weights = np.minimum(1.0, HUBER_DELTA * scale / np.maximum(distance, 1e-300)) / row_spread**2
        parameters = _fit_rows(form, x, y, weights, residual)
        if np.allclose(parameters, previous, rtol=1e-4, atol=0.0):
            break
    return np.asarray(parameters[0])


def profile_rss(
    form: Form,
    x: Float[np.ndarray, " K"],
    y: Float[np.ndarray, " K"],
    weights: Float[np.ndarray, " K"],
    outer: Float[np.ndarray, " G"],
    residual: Residual,
) -> Float[np.ndarray, " G"]:
    """The smallest weighted squared residual at each given exponent, everything else free: `[G]`."""
    log_x = np.log(x)
    _, rss = _solve(
        form, form.shapes[0], log_x - log_x.mean(), y[None], weights[None], outer[None], residual, exact=True
    )
    return np.asarray(rss[0])


def _fit_rows(
    form: Form,
    x: Float[np.ndarray, " R"],
    y: Float[np.ndarray, " R"],
    weights: Float[np.ndarray, " R"],
    residual: Residual,
) -> Float[np.ndarray, "1 P"]:
    """Least squares from rows through their weighted level means (geometric for log residuals): a smaller problem."""
    levels, row_level = np.unique(x, return_inverse=True)
    total = np.bincount(row_level, weights=weights)
    mean = np.bincount(row_level, weights=weights * (np.log(y) if residual == "log" else y)) / total
    mean = np.exp(mean) if residual == "log" else mean
    return np.asarray(fit_many(form, levels, mean[None], total[None], residual=residual).parameters)


@dataclass(frozen=True)
class _Found:
    """Per table the best outer number and shape, with their coefficients and weighted squares."""

    outer: Float[np.ndarray, " B"]
    shape: Float[np.ndarray, " B"]
    coefficients: Float[np.ndarray, "B Q"]
    rss: Float[np.ndarray, " B"]


def _search(
    form: Form,
    x: Float[np.ndarray, " K"],
    y: Float[np.ndarray, "B K"],
    weights: Float[np.ndarray, "B K"],
    residual: Residual,
    exact: bool,
) -> _Found:
    """The best of all shapes, each with its best outer number."""
    best, *others = (_search_outer(form, shape, x, y, weights, residual, exact) for shape in form.shapes)
    for other in others:
        better = other.rss < best.rss
        best = _Found(
            np.where(better, other.outer, best.outer),
            np.where(better, other.shape, best.shape),
            np.where(better[:, None], other.coefficients, best.coefficients),
            np.where(better, other.rss, best.rss),
        )
    return best


def _search_outer(
    form: Form,
    shape: float,
    x: Float[np.ndarray, " K"],
    y: Float[np.ndarray, "B K"],
    weights: Float[np.ndarray, "B K"],
    residual: Residual,
    exact: bool,
) -> _Found:
    """The best outer number of each table at one shape and the coefficients that go with it."""
    log_x = np.log(x) - np.log(x).mean()
    grid, rows = form.outer_grid(x), np.arange(len(y))
    grid = grid if exact or not form.outer_is_a_position else grid[::2]
    offset = float(np.log(x).mean()) if form.outer_is_a_position else 0.0  # a break moves with scaled x
    rounds, n_points = _REFINE_EXACT if exact else _REFINE_DRAWS
    coefficients, rss = _solve(form, shape, log_x, y, weights, (grid - offset)[None], residual, exact=exact)
    best = rss.argmin(axis=1)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, grid.size - 1)]
    outer, kept, kept_rss = grid[best], coefficients[rows, best], rss[rows, best]
    for _ in range(rounds if grid.size > 1 else 0):
        tried = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, n_points)
        coefficients, rss = _solve(form, shape, log_x, y, weights, tried - offset, residual, exact=exact)
        best = rss.argmin(axis=1)
        outer, kept, kept_rss = tried[rows, best], coefficients[rows, best], rss[rows, best]
        low = tried[rows, np.maximum(best - 1, 0)]
        high = tried[rows, np.minimum(best + 1, n_points - 1)]
    return _Found(outer, np.full(len(y), shape), kept, kept_rss)


def _solve(
    form: Form,
    shape: float,
    log_x: Float[np.ndarray, " K"],
    y: Float[np.ndarray, "B K"],
    weights: Float[np.ndarray, "#B K"],
    outer: Float[np.ndarray, "#B G"],
    residual: Residual,
    *,
    exact: bool,
) -> tuple[Float[np.ndarray, "B G Q"], Float[np.ndarray, "B G"]]:
    """Coefficients for centred `log_x` and the weighted sum of squares at every outer number."""
    coefficients, rss = form.solve(problem(form.columns(log_x, outer, shape), y, weights, residual, exact=exact))
    size = (len(y), outer.shape[1])
    return np.stack([np.broadcast_to(c, size) for c in coefficients], -1), np.broadcast_to(rss, size)


def _parameters(form: Form, found: _Found, log_ref: float) -> Float[np.ndarray, "B P"]:
    """Coefficients for scaled x to the form's own parameters, in the order of `form.parameters`."""
    with np.errstate(over="ignore"):
        columns = form.to_parameters(found.outer, list(found.coefficients.T), log_ref, found.shape)
        return np.stack(columns, -1)
