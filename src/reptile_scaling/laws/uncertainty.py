"""Intervals: three bootstraps and a profile. Every one says what it resamples; docs/law.md says how often each covers.

Legend: `B` draws · `K` levels · `P` parameters · `T` test tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from reptile_scaling.laws.effects import task_effects
from reptile_scaling.laws.fitting import Fits, fit_many, profile_rss, residuals
from reptile_scaling.laws.forms import Form, evaluate
from reptile_scaling.laws.levels import Levels, pool_variance
from reptile_scaling.laws.table import LossTable

_WEBB = np.sqrt(np.array([1.5, 1.0, 0.5]))  # six-point weights: Rademacher's two leave 2^K tables, too few (Webb 2014)
_SMALLEST_DRAW = 0.02  # of the level's mean: a drawn loss stays positive, as every loss is
_LARGEST_FACTOR = 3.0  # of log noise, 20-fold: one degree of freedom draws factors that no run ever had


@dataclass(frozen=True)
class Draws:
    """Parameters `[B, P]` of one form refitted to drawn tables: `hierarchical` is the interval the law reports."""

    hierarchical: Float[np.ndarray, "B P"]
    resampled: Float[np.ndarray, "B P"] | None
    wild: Float[np.ndarray, "B P"] | None


def draw_parameters(
    form: Form, table: LossTable, levels: Levels, fits: Fits, n_bootstrap: int, rng: np.random.Generator
) -> Draws | None:
    """All three bootstraps of one form; None where neither seeds nor spare levels say how noisy the table is."""
    variance, df = pool_variance(levels, float(fits.rss[0]), form.n_parameters)
    if df == 0 or n_bootstrap == 0:
        return None
    fitted = evaluate(form, fits.parameters, levels.x)[0]
    task_shift = shift_by_tasks(table, levels, n_bootstrap, rng)
    hierarchical = _noise(levels, variance, df, n_bootstrap, rng) + task_shift
    spare = levels.x.size - form.n_parameters
    return Draws(
        refit(form, levels, fitted, hierarchical, levels.weights[None]),
        _resample(form, table, levels, task_shift, rng) if spare > 0 else None,
        refit(form, levels, fitted, _wild(form, levels, fits, spare, n_bootstrap, rng), levels.weights[None])
        if spare > 0
        else None,
    )


def profile_interval(form: Form, levels: Levels, fits: Fits) -> tuple[float, float] | None:
    """Exponents whose best fit is not significantly worse than the best of all (F test, 95 %); None without noise.

    An end of the interval at the end of the searched range means that the data do not bound it there.
    """
    variance, df = pool_variance(levels, float(fits.rss[0]), form.n_parameters)
    if df == 0 or not form.profiled:
        return None
    best = float(fits.parameters[0, form.parameters.index("beta")])
    limit = float(fits.rss[0]) + max(variance, 1e-24) * float(f_distribution.ppf(0.95, 1, df))
    grid = form.outer_grid(levels.x)

    def acceptable(exponents: Float[np.ndarray, " G"]) -> Float[np.ndarray, " G"]:
        return np.asarray(limit - profile_rss(form, levels.x, levels.mean, levels.weights, exponents, levels.residual))

    inside = grid[acceptable(grid) >= 0]
    low = _crossing(acceptable, min([best, *inside]), grid[grid < min([best, *inside])][-1:], float(grid[0]))
    high = _crossing(acceptable, max([best, *inside]), grid[grid > max([best, *inside])][:1], float(grid[-1]))
    return low, high


def percentile_interval(draws: Float[np.ndarray, "B P"]) -> Float[np.ndarray, "2 P"]:
    """The 2.5 % and 97.5 % points of each column."""
    return np.asarray(np.percentile(draws, [2.5, 97.5], axis=0))


def _noise(levels: Levels, variance: float, df: int, n: int, rng: np.random.Generator) -> Float[np.ndarray, "B K"]:
    """Seed noise of level means in the unit of the residual; its size (s²·df/χ²) and exponent are drawn too.

    What the runs of one seed share moves all levels of a draw together.
    """
    spread, inflation = levels.noise_law.drawn_spread(levels.x, n, rng)
    sigma = np.sqrt(variance * inflation * df / rng.chisquare(df, n))
    own = sigma[:, None] * spread * rng.standard_normal((n, levels.x.size)) / np.sqrt(levels.n_seeds)
    if levels.shared_df == 0:
        return np.asarray(own)
    spread = np.sqrt(levels.shared_variance * levels.shared_df / rng.chisquare(levels.shared_df, n))
    together = spread * rng.standard_normal(n) / np.sqrt(levels.shared_df + 1)
    return np.asarray(own + together[:, None])


def _wild(
    form: Form, levels: Levels, fits: Fits, spare: int, n: int, rng: np.random.Generator
) -> Float[np.ndarray, "B K"]:
    """Each level's own residual with a random sign and size: no assumption that levels are equally noisy."""
    own = residuals(form, fits.parameters, levels.x, levels.mean[None], levels.residual)[0]
    tails = t_distribution.ppf(0.975, spare) / 1.96  # few levels: Student's factor, or coverage drops below 90 %
    signs = rng.choice(np.concatenate([_WEBB, -_WEBB]), (n, levels.x.size))
    return np.asarray(own * np.sqrt(levels.x.size / spare) * signs * tails)


def _resample(
    form: Form, table: LossTable, levels: Levels, task_shift: Float[np.ndarray, "B K"], rng: np.random.Generator
) -> Float[np.ndarray, "B P"]:
    """Levels of N with replacement, seeds within them, test tasks: no form is assumed, so it is the widest.

    Seeds are drawn from the residuals of all levels, inflated for the mean they were measured from: the two or
    three of one level alone would understate its variance by a half or a third. Drawn levels must leave one to spare.
    """
    n, k = task_shift.shape
    seeds = levels.n_seeds[levels.row_level]
    residual = (table.loss - levels.mean[levels.row_level]) / (levels.unit * levels.spread)[levels.row_level]
    pool = (residual * np.sqrt(seeds / np.maximum(seeds - 1, 1)))[seeds > 1]
    shift = np.zeros((n, k))
    if pool.size:
        to_level = np.zeros((seeds.size, k))
        to_level[np.arange(seeds.size), levels.row_level] = 1.0 / seeds
        shift = rng.choice(pool, (n, seeds.size)) @ to_level * levels.spread
    times = rng.multinomial(k, np.full(k, 1.0 / k), 8 * n)
    enough = times[(times > 0).sum(axis=1) > form.n_parameters][:n]
    if not len(enough):
        return np.empty((0, form.n_parameters))
    times = np.resize(enough, (n, k))  # repeats what there is where few draws keep enough levels
    return refit(form, levels, levels.mean, shift + task_shift, levels.weights * times)


def shift_by_tasks(table: LossTable, levels: Levels, n: int, rng: np.random.Generator) -> Float[np.ndarray, "B K"]:
    """How level means move, in the unit of the residual, with other test classes and tasks; 0 without their losses."""
    if table.task_losses is None:
        return np.zeros((n, levels.x.size))
    effects = task_effects(level_task_losses(table, levels), table.task_classes)
    return np.asarray(effects.drawn_shift(n, rng) / levels.unit)


def level_task_losses(table: LossTable, levels: Levels) -> Float[np.ndarray, "T K"]:
    """Loss of each test task at each level, mean over its seeds."""
    assert table.task_losses is not None
    to_level = np.zeros((levels.x.size, table.loss.size))
    to_level[levels.row_level, np.arange(table.loss.size)] = 1.0 / levels.n_seeds[levels.row_level]
    return np.asarray((to_level @ table.task_losses).T)


def refit(
    form: Form,
    levels: Levels,
    around: Float[np.ndarray, " K"],
    noise: Float[np.ndarray, "B K"],
    weights: Float[np.ndarray, "#B K"],
) -> Float[np.ndarray, "B P"]:
    """Refit to tables drawn around a curve; relative noise multiplies, so that a drawn loss stays positive."""
    factors = np.exp(np.clip(noise, -_LARGEST_FACTOR, _LARGEST_FACTOR))
    drawn = around * factors if levels.noise == "relative" else around + noise
    if (levels.mean > 0).all():
        drawn = np.maximum(drawn, _SMALLEST_DRAW * levels.mean)
    return fit_many(form, levels.x, drawn, weights, residual=levels.residual, exact=False).parameters


def _crossing(
    acceptable: Callable[[np.ndarray], np.ndarray], inside: float, outside: Float[np.ndarray, " one"], bound: float
) -> float:
    """Where the profile leaves the accepted region between `inside` and the next grid point; else the bound."""
    if not outside.size:
        return bound
    low, high = inside, float(outside[0])
    for _ in range(5):  # 32⁵ = 3·10⁷ times finer than the grid
        tried = np.linspace(low, high, 33)
        first_out = max(1, int(np.argmax(acceptable(tried) < 0)))
        low, high = float(tried[first_out - 1]), float(tried[first_out])
    return low
