"""A table gathered to levels of x: means, and one noise of a run pooled over them.

Legend: `K` levels · `R` rows.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import f as f_distribution

from reptile_scaling.laws.linear import Residual
from reptile_scaling.laws.noise import NoiseLaw, even_noise, fit_noise_law
from reptile_scaling.laws.table import LossTable

Noise = Literal["relative", "absolute"]

# −2 log-likelihood by which absolute noise must win before it replaces relative noise: the 95 % point of χ²(1).
_ABSOLUTE_NOISE_MUST_WIN_BY = 3.84


@dataclass(frozen=True)
class Levels:
    """The table gathered by distinct x, ascending. One run's σ at a level is s · `unit` · `spread`.

    `unit` is the level's mean where noise is relative, 1 where it is absolute; `spread` follows `noise_law`.
    `pooled_variance` is s² pooled over levels from seeds of the same level, `pooled_df` its degrees of freedom.
    `shared_variance` is what a seed's runs at all levels have in common, in units of `unit`², where every seed ran
    everywhere and it shows: it moves the whole curve, not its exponent, so it is kept out of `pooled_variance`.
    """

    x: Float[np.ndarray, " K"]
    mean: Float[np.ndarray, " K"]
    n_seeds: Int[np.ndarray, " K"]
    unit: Float[np.ndarray, " K"]
    row_level: Int[np.ndarray, " R"]
    noise: Noise
    noise_law: NoiseLaw
    pooled_variance: float
    pooled_df: int
    shared_variance: float = 0.0
    shared_df: int = 0
    symbol: str = "N"

    @property
    def spread(self) -> Float[np.ndarray, " K"]:
        """σ of a level relative to s, in units of `unit`."""
        return self.noise_law.spread(self.x)

    @property
    def weights(self) -> Float[np.ndarray, " K"]:
        """1 / variance of the mean's residual in units of s²: the number of seeds over spread²."""
        return np.asarray(self.n_seeds / self.spread**2)

    @property
    def residual(self) -> Residual:
        """Relative noise is equal noise of logs; absolute noise is left plain."""
        return "log" if self.noise == "relative" else "plain"

    @property
    def loss_size(self) -> float:
        """The size of a squared loss in the units of a squared residual: 1 for relative noise."""
        return max(float(np.mean((self.mean / self.unit) ** 2)), 1e-300)


@dataclass(frozen=True)
class _Scatter:
    """What a table's seeds say of its noise."""

    law: NoiseLaw
    variance: float
    df: int
    shared_variance: float = 0.0
    shared_df: int = 0


def gather_levels(table: LossTable) -> Levels:
    """Level means with one noise pooled over levels: relative to the mean, unless the seeds say it is absolute.

    Pooled, because two or three seeds say next to nothing about the variance of their own level; how it goes with x
    is one number more, where the seeds ask for it (noise.py).
    """
    x, row_level, n_seeds = np.unique(table.x, return_inverse=True, return_counts=True)
    mean = np.bincount(row_level, weights=table.loss) / n_seeds
    residual = table.loss - mean[row_level]
    noise = _kind_of_noise(residual, mean, n_seeds, row_level) if (table.loss > 0).all() else "absolute"
    unit = mean if noise == "relative" else np.ones_like(mean)
    s = _scatter(x, residual / unit[row_level], row_level, n_seeds, _seed_of_row(table, row_level))
    return Levels(
        x,
        mean,
        n_seeds,
        unit,
        row_level,
        noise,
        s.law,
        s.variance,
        s.df,
        s.shared_variance,
        s.shared_df,
        table.x_symbol,
    )


def pool_variance(levels: Levels, rss: float, n_parameters: int) -> tuple[float, int]:
    """s² of one row and its degrees of freedom, from seeds and from the curve's misfit `rss` at the level means.

    Where the misfit is significantly larger than the seeds explain (F test, 5 %), it alone is the noise:
    an interval must not be narrower than the distance between the curve and its points.
    """
    return pool_with_misfit(levels.pooled_variance, levels.pooled_df, rss, levels.x.size - n_parameters)


def pool_with_misfit(seeds: float, seeds_df: int, rss: float, misfit_df: int) -> tuple[float, int]:
    """The rule of `pool_variance` from the numbers alone."""
    if misfit_df <= 0:
        return seeds, seeds_df
    if seeds_df and rss / misfit_df > seeds * float(f_distribution.ppf(0.95, misfit_df, seeds_df)):
        return rss / misfit_df, misfit_df
    return (seeds * seeds_df + rss) / (seeds_df + misfit_df), seeds_df + misfit_df


def _scatter(
    x: Float[np.ndarray, " K"],
    residual: Float[np.ndarray, " R"],
    row_level: Int[np.ndarray, " R"],
    n_seeds: Int[np.ndarray, " K"],
    seed: Int[np.ndarray, " R"] | None,
) -> _Scatter:
    """The noise of residuals in units of `unit`; what a seed does at every level is taken out where it shows."""
    df = int(n_seeds.sum() - x.size)
    if df == 0:
        return _Scatter(even_noise(x), 0.0, 0)
    squares = np.bincount(row_level, weights=residual**2)
    law = fit_noise_law(x, squares, (n_seeds - 1).astype(np.float64))
    if seed is None:
        return _Scatter(law, float(np.sum(squares / law.spread(x) ** 2)) / df, df)
    for _ in range(2):
        found, own = _two_way(x, residual, row_level, seed, law)
        if found.shared_df == 0:
            break
        # What seeds share hides how their own noise goes with x, so that is looked at again without it.
        k = x.size
        own_df = np.full(k, (n_seeds[0] - 1) * (k - 1) / k)
        law = fit_noise_law(x, np.bincount(row_level, weights=own**2), own_df)
        found = replace(found, law=law)
    return found


def _two_way(
    x: Float[np.ndarray, " K"],
    residual: Float[np.ndarray, " R"],
    row_level: Int[np.ndarray, " R"],
    seed: Int[np.ndarray, " R"],
    law: NoiseLaw,
) -> tuple[_Scatter, Float[np.ndarray, " R"]]:
    """Weighted two-way analysis of variance: own noise and what a seed's runs share (F test, 5 %); own residuals."""
    precision = 1.0 / law.spread(x) ** 2
    n_levels, n_seeds = x.size, int(seed.max()) + 1
    per_seed = np.bincount(seed, weights=residual * precision[row_level]) / precision.sum()
    own = residual - per_seed[seed]
    df, shared_df = (n_levels - 1) * (n_seeds - 1), n_seeds - 1
    variance = float(np.sum(own**2 * precision[row_level])) / df
    between = float(precision.sum() * np.sum(per_seed**2)) / shared_df
    if between <= variance * float(f_distribution.ppf(0.95, shared_df, df)):
        # Own variance all the same: choosing it only when it is small would make intervals of β too narrow (89 %).
        return _Scatter(law, variance, df), own
    return _Scatter(law, variance, df, float((between - variance) / precision.sum()), shared_df), own


def _seed_of_row(table: LossTable, row_level: Int[np.ndarray, " R"]) -> Int[np.ndarray, " R"] | None:
    """The seed of each row by number; None unless every seed ran exactly once at every level of three or more."""
    names, seed = np.unique(np.asarray(table.group if table.group is not None else ()), return_inverse=True)
    n_levels = int(row_level.max()) + 1
    if names.size < 2 or n_levels < 3 or n_levels * names.size != table.loss.size:
        return None
    everywhere = np.unique(row_level * names.size + seed).size == table.loss.size
    return np.asarray(seed) if everywhere else None


def _kind_of_noise(
    residual: Float[np.ndarray, " R"],
    mean: Float[np.ndarray, " K"],
    n_seeds: Int[np.ndarray, " K"],
    row_level: Int[np.ndarray, " R"],
) -> Noise:
    """Gaussian −2 log-likelihood of the seeds' scatter under both kinds; relative unless absolute wins clearly."""
    df = n_seeds.sum() - n_seeds.size
    absolute, relative = np.sum(residual**2), np.sum((residual / mean[row_level]) ** 2)
    if df == 0 or min(absolute, relative) <= 0:
        return "relative"
    gain = df * np.log(relative / absolute) + 2 * np.sum((n_seeds - 1) * np.log(mean))
    return "absolute" if gain > _ABSOLUTE_NOISE_MUST_WIN_BY else "relative"
