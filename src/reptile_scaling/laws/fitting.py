"""Variable projection: search the one outer number, solve the rest exactly, for many tables at once.

No start values and no local minimum missed: the outer number is tried on a grid over its whole range and the
best cell is refined by repeated bisection of its neighbourhood. Golub & Pereyra 1973 for the idea.
Legend: `B` tables · `G` outer values · `K` levels · `P` parameters.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from reptile_scaling.laws.forms import Form, columns, evaluate, outer_grid

# Nine points over a bracket of two cells shrink it four-fold per round.
_REFINE_POINTS = 9
ROUNDS_EXACT = 24  # four-fold each: from a cell of 0.1 to below 1e-15
ROUNDS_DRAWS = 4  # a bootstrap draw needs its exponent to about 1e-4, a hundredth of any interval's width
HUBER_DELTA = 1.345  # standard deviations; 95 % efficient when the noise is Gaussian after all (Huber 1964)


@dataclass(frozen=True)
class Fits:
    """Fits of one form to B tables: parameters `[B, P]`, weighted squared residuals `[B]`, outer number at its bound."""

    parameters: Float[np.ndarray, "B P"]
    rss: Float[np.ndarray, " B"]
    at_bound: Bool[np.ndarray, " B"]


def fit_many(
    form: Form,
    x: Float[np.ndarray, " K"],
    y: Float[np.ndarray, "B K"],
    weights: Float[np.ndarray, "B K"],
    *,
    rounds: int = ROUNDS_EXACT,
) -> Fits:
    """Least squares of `form` to each row of `y[B, K]` with weights `[B, K]` (or `[1, K]` for all); rss is a sum.

    Floor and amplitude are kept ≥ 0 where all of y is positive: a loss cannot fall below 0. A broken law is
    solved on log y (it is linear there) and its rss is given on the scale of y like the others'.
    """
    log_ref = float(np.log(x).mean())
    outer, coefficients = _search(form, x, y, np.broadcast_to(weights, y.shape), rounds)
    parameters = _parameters(form, outer, coefficients, log_ref)
    rss = np.sum(weights * (y - evaluate(form, parameters, x)) ** 2, axis=-1)
    grid = outer_grid(form, x)
    near = 1e-6 * (grid[-1] - grid[0])
    at_bound = (np.abs(outer - grid[0]) <= near) | (np.abs(outer - grid[-1]) <= near)
    return Fits(parameters, rss, at_bound & (grid.size > 1))


def fit_huber(
    form: Form, x: Float[np.ndarray, " R"], y: Float[np.ndarray, " R"], weights: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " P"]:
    """Huber's estimate from single rows (a mean hides the one seed that went astray), by reweighting to rest.

    The scale is the normalised median absolute residual of each round.
    """
    levels = np.unique(x)
    fits = _fit_rows(form, x, y, weights)
    for _ in range(50):  # converges linearly, by a factor of 3 or better in all worlds tried: 1e-9 within 20
        residual = np.sqrt(weights) * (y - evaluate(form, fits, x)[0])
        spread = np.median(np.abs(residual)) / 0.6745  # the median of |z|, so that it estimates a Gaussian's σ
        if spread <= 1e-12 * np.abs(np.sqrt(weights) * y).max() or levels.size < form.n_parameters:
            break
        previous = fits
        robust = np.minimum(1.0, HUBER_DELTA * spread / np.maximum(np.abs(residual), 1e-300))
        fits = _fit_rows(form, x, y, weights * robust)
        if np.allclose(fits, previous, rtol=1e-9, atol=0.0):
            break
    return np.asarray(fits[0])


def profile_rss(
    form: Form, x: Float[np.ndarray, " K"], y: Float[np.ndarray, " K"], weights: Float[np.ndarray, " K"],
    outer: Float[np.ndarray, " G"],
) -> Float[np.ndarray, " G"]:
    """The smallest weighted squared residual at each given outer number, everything else free: `[G]`."""
    log_x = np.log(x)
    _, rss = _solve(form, log_x - log_x.mean(), y[None], weights[None], outer[None])
    return np.asarray(rss[0])


def _fit_rows(form: Form, x: Float[np.ndarray, " R"], y: Float[np.ndarray, " R"],
              weights: Float[np.ndarray, " R"]) -> Float[np.ndarray, "1 P"]:
    """The same least squares from rows, through their weighted level means: identical parameters, smaller problem."""
    levels, row_level = np.unique(x, return_inverse=True)
    total = np.bincount(row_level, weights=weights)
    mean = np.bincount(row_level, weights=weights * y) / total
    return np.asarray(fit_many(form, levels, mean[None], total[None], rounds=16).parameters)


def _search(form: Form, x: Float[np.ndarray, " K"], y: Float[np.ndarray, "B K"], weights: Float[np.ndarray, "B K"],
            rounds: int) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B Q"]]:
    """The best outer number of each table and the coefficients (intercept first) that go with it."""
    log_x = np.log(x)
    shift = log_x.mean()
    grid = outer_grid(form, x)
    offset = shift if form.name == "broken" else 0.0  # breaks are positions, so they move with the scaled x
    coefficients, rss = _solve(form, log_x - shift, y, weights, (grid - offset)[None])
    best = rss.argmin(axis=1)
    rows = np.arange(len(y))
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, grid.size - 1)]
    outer, kept = grid[best], coefficients[rows, best]
    for _ in range(rounds if grid.size > 1 else 0):
        tried = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, _REFINE_POINTS)
        coefficients, rss = _solve(form, log_x - shift, y, weights, tried - offset)
        best = rss.argmin(axis=1)
        outer, kept = tried[rows, best], coefficients[rows, best]
        low = tried[rows, np.maximum(best - 1, 0)]
        high = tried[rows, np.minimum(best + 1, _REFINE_POINTS - 1)]
    return outer, kept


def _solve(form: Form, log_x: Float[np.ndarray, " K"], y: Float[np.ndarray, "B K"], weights: Float[np.ndarray, "B K"],
           outer: Float[np.ndarray, "b G"]) -> tuple[Float[np.ndarray, "B G Q"], Float[np.ndarray, "B G"]]:
    """Exact weighted linear least squares at every outer number; signs kept where they mean something."""
    y_BK, weights_BK = y, weights
    if form.name == "broken":
        y_BK, weights_BK = np.log(y), weights * y**2  # d log y = dy / y: the same distances, to first order
    target, w = y_BK[:, None, :], weights_BK[:, None, :]
    if form.name == "power":
        (u,) = columns(form, log_x, outer)
        slope = (w * u * target).sum(-1) / (w * u * u).sum(-1)
        return np.stack([slope], -1), (w * (target - slope[..., None] * u) ** 2).sum(-1)
    terms = columns(form, log_x, outer)
    coefficients = _with_intercept(target, w, terms)
    if form.name == "power_floor":
        coefficients = _kept_positive(target, w, terms[0], coefficients, floor_at_zero=(y > 0).all(axis=1))
    shape = (len(y), outer.shape[1])
    fitted = sum((c[..., None] * u for c, u in zip(coefficients[1:], terms, strict=True)), coefficients[0][..., None])
    rss = (w * (target - fitted) ** 2).sum(-1)
    return np.stack([np.broadcast_to(c, shape) for c in coefficients], -1), np.broadcast_to(rss, shape)


def _with_intercept(target: Float[np.ndarray, "B 1 K"], w: Float[np.ndarray, "B 1 K"],
                    terms: list[Float[np.ndarray, "b G K"]]) -> list[Float[np.ndarray, "B g"]]:
    """Intercept and up to two slopes by centring (no cancellation) and Cramer's rule."""
    total = w.sum(-1)

    def centred(values: Float[np.ndarray, "b g K"]) -> tuple[Float[np.ndarray, "B g"], Float[np.ndarray, "B g K"]]:
        mean = (w * values).sum(-1) / total
        return mean, values - mean[..., None]

    y_mean, y_c = centred(target)
    if not terms:
        return [y_mean]
    means, cs = zip(*(centred(u) for u in terms), strict=True)
    first = (w * cs[0] * y_c).sum(-1)
    if len(terms) == 1:
        slopes = [_ratio(first, (w * cs[0] ** 2).sum(-1))]
    else:
        second = (w * cs[1] * y_c).sum(-1)
        s00, s01, s11 = ((w * cs[i] * cs[j]).sum(-1) for i, j in ((0, 0), (0, 1), (1, 1)))
        determinant = s00 * s11 - s01**2
        determinant = np.where(determinant > 1e-12 * s00 * s11, determinant, 0.0)  # a side of the break with one level
        slopes = [_ratio(first * s11 - second * s01, determinant), _ratio(second * s00 - first * s01, determinant)]
    return [y_mean - sum(s * m for s, m in zip(slopes, means, strict=True)), *slopes]


def _ratio(above: Float[np.ndarray, "B g"], below: Float[np.ndarray, "B g"]) -> Float[np.ndarray, "B g"]:
    """above / below, and 0 where resampled levels leave nothing to measure a slope from."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _kept_positive(target: Float[np.ndarray, "B 1 K"], w: Float[np.ndarray, "B 1 K"], u: Float[np.ndarray, "b G K"],
                   free: list[Float[np.ndarray, "B G"]], *, floor_at_zero: Bool[np.ndarray, " B"],
                   ) -> list[Float[np.ndarray, "B G"]]:
    """Floor and amplitude ≥ 0: a convex problem in two numbers, so the constrained optimum is one of three."""
    floor, amplitude = free
    no_floor = (w * u * target).sum(-1) / (w * u * u).sum(-1)
    mean = (w * target).sum(-1) / w.sum(-1)
    below = (floor < 0) & floor_at_zero[:, None]
    floor, amplitude = np.where(below, 0.0, floor), np.where(below, no_floor, amplitude)
    rising = amplitude < 0
    return [np.where(rising, mean, floor), np.where(rising, 0.0, amplitude)]


def _parameters(form: Form, outer: Float[np.ndarray, " B"], coefficients: Float[np.ndarray, "B Q"],
                log_ref: float) -> Float[np.ndarray, "B P"]:
    """Coefficients for scaled x to the form's own parameters, in the order of `form.parameters`."""
    c = list(coefficients.T)
    with np.errstate(over="ignore"):
        match form.name:
            case "power":
                return np.stack([c[0] * np.exp(outer * log_ref), outer], -1)
            case "power_floor":
                return np.stack([c[1] * np.exp(outer * log_ref), outer, c[0]], -1)
            case "log_linear":
                return np.stack([c[0] + c[1] * log_ref, c[1]], -1)
            case "broken":
                return np.stack([np.exp(c[0]), c[1], c[2], np.exp(outer)], -1)
            case _:
                return np.stack(c, -1)
