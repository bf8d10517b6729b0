"""What a law is fitted to: rows of (x, loss, seed), gathered to levels of x with one pooled noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import f as f_distribution
from scipy.stats import kendalltau

from reptile_scaling.errors import InputError
from reptile_scaling.laws.linear import Residual

Noise = Literal["relative", "absolute"]
Transform = Literal["loss", "error_rate", "logit_accuracy"]
TRANSFORMS: tuple[Transform, ...] = ("loss", "error_rate", "logit_accuracy")

# −2 log-likelihood by which absolute noise must win before it replaces relative noise: the 95 % point of χ²(1).
_ABSOLUTE_NOISE_MUST_WIN_BY = 3.84


@dataclass(frozen=True)
class LossTable:
    """Rows of a sweep: `x[rows]` (above 0), `loss[rows]` (y, finite) and the seed of each row in `group`.

    `task_losses[rows, test_tasks]` are the losses of each test task; its columns are the same tasks in every
    row (common random numbers). `x_name` is what x is in a sentence, `x_symbol` its letter. `dropped` says which
    rows of the source are not here, and why.
    """

    x: Float[np.ndarray, " rows"]
    loss: Float[np.ndarray, " rows"]
    group: tuple[str, ...] | None = None
    task_losses: Float[np.ndarray, "rows tasks"] | None = None
    y_name: str = "loss"
    x_name: str = "n_tasks"
    x_symbol: str = "N"
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InputError for what no fit can use: no rows, x ≤ 0, values that are not finite, ragged columns."""
        if self.x.size == 0:
            reason = f" ({'; '.join(self.dropped)})" if self.dropped else ""
            raise InputError(f"the table has 0 usable rows{reason}: give at least one row with a finite {self.y_name}.")
        if self.x.shape != self.loss.shape:
            raise InputError(
                f"{self.x.size} values of {self.x_name}, {self.loss.size} of {self.y_name}: give one of each per row."
            )
        _require_positive(self.x, self.x_name)
        if not np.isfinite(self.loss).all():
            bad = self.loss[~np.isfinite(self.loss)][0]
            raise InputError(f"{self.y_name} = {bad} is not a number a law can use: drop that row.")
        for name, column in (("group", self.group), ("task_losses", self.task_losses)):
            if column is not None and len(column) != self.loss.size:
                raise InputError(f"{len(column)} rows of {name} for {self.loss.size} rows: give one per row.")


@dataclass(frozen=True)
class Levels:
    """The table gathered by distinct x, ascending: mean, seeds and scale of the noise of each level.

    `scale` is the level's noise in units of one common s: its mean where noise is relative, 1 where absolute.
    `pooled_variance` is that s² pooled over N from seeds of the same level, `pooled_df` its degrees of freedom.
    `shared_variance` is what a seed's runs at all N have in common, where every seed ran everywhere and it shows:
    it moves the whole curve, not its exponent, so it is kept out of `pooled_variance`.
    """

    x: Float[np.ndarray, " levels"]
    mean: Float[np.ndarray, " levels"]
    n_seeds: Int[np.ndarray, " levels"]
    scale: Float[np.ndarray, " levels"]
    row_level: Int[np.ndarray, " rows"]
    noise: Noise
    pooled_variance: float
    pooled_df: int
    shared_variance: float = 0.0
    shared_df: int = 0
    symbol: str = "N"

    @property
    def weights(self) -> Float[np.ndarray, " levels"]:
        """1 / variance of the mean's residual in units of s²: its number of seeds."""
        return self.n_seeds.astype(np.float64)

    @property
    def residual(self) -> Residual:
        """Relative noise is equal noise of logs; absolute noise is left plain."""
        return "log" if self.noise == "relative" else "plain"


@dataclass(frozen=True)
class ScatterTrend:
    """Standard deviation of a level's seeds in units of `Levels.scale`, where there are two or more, and whether it
    goes with x: Kendall's rank correlation and its two-sided p, NaN where all are equal.
    """

    x: Float[np.ndarray, " repeated"]
    scatter: Float[np.ndarray, " repeated"]
    correlation: float
    p_value: float


def table_from_frame(frame: pd.DataFrame, x: str, y: str, group: str | None = None) -> LossTable:
    """A LossTable of columns `x`, `y` and, where given, `group`; rows without a finite x and y are dropped and named.

    Raises InputError for a missing column, text where a number should be, x ≤ 0.
    """
    for column in (x, y) if group is None else (x, y, group):
        if column not in frame.columns:
            raise InputError(
                f"column '{column}' is not in the table: choose one of {', '.join(map(str, frame.columns))}."
            )
    values, loss = _numbers(frame, x), _numbers(frame, y)
    keep = np.isfinite(values) & np.isfinite(loss)
    dropped = tuple(f"row {row}: {x} = {values[row]}, {y} = {loss[row]} is not finite" for row in np.flatnonzero(~keep))
    groups = None if group is None else tuple(str(value) for value in frame[group].to_numpy()[keep])
    symbol = "N" if x == "n_tasks" else x
    return LossTable(values[keep], loss[keep], groups, None, y, x, symbol, dropped)


def transformed(table: LossTable, transform: Transform) -> LossTable:
    """The table on the scale the forms fall on: the loss itself, 1 − accuracy, or the odds of an error.

    A straight line of logit accuracy over log N *is* a power law of the odds (1 − accuracy) / accuracy, so the
    same forms serve losses and accuracies. Accuracies of exactly 1 (odds 0) or 0 (odds ∞) are dropped and named.
    """
    if transform not in TRANSFORMS:
        raise InputError(f"transform = '{transform}' is unknown: choose one of {', '.join(TRANSFORMS)}.")
    if transform == "loss":
        return table
    outside = table.loss[(table.loss < 0) | (table.loss > 1)]
    if outside.size:
        raise InputError(f"{table.y_name} = {outside[0]:g} is not an accuracy between 0 and 1: use transform 'loss'.")
    per_task = None if table.task_losses is None else 1.0 - table.task_losses
    errors = replace(table, loss=1.0 - table.loss, task_losses=per_task)
    if transform == "error_rate":
        return errors
    return _odds(errors)


def to_scale(value: Float[np.ndarray, " *any"], transform: Transform) -> Float[np.ndarray, " *any"]:
    """A value in the table's own unit on the scale of the fit; accuracies of 0 have infinite odds."""
    if transform == "loss":
        return value
    with np.errstate(divide="ignore"):
        return 1.0 - value if transform == "error_rate" else (1.0 - value) / value


def from_scale(value: Float[np.ndarray, " *any"], transform: Transform) -> Float[np.ndarray, " *any"]:
    """The inverse of `to_scale`: a fitted error rate or odds back to the accuracy it stands for."""
    if transform == "loss":
        return value
    return 1.0 - value if transform == "error_rate" else 1.0 / (1.0 + np.maximum(value, 0.0))


def gather_levels(table: LossTable) -> Levels:
    """Level means with one noise pooled over N: relative to the mean, unless the seeds say it is absolute.

    Pooled, because two or three seeds say next to nothing about the variance of their own level.
    """
    x, row_level, n_seeds = np.unique(table.x, return_inverse=True, return_counts=True)
    mean = np.bincount(row_level, weights=table.loss) / n_seeds
    residual = table.loss - mean[row_level]
    noise = _kind_of_noise(residual, mean, n_seeds, row_level) if (table.loss > 0).all() else "absolute"
    scale = mean if noise == "relative" else np.ones_like(mean)
    pooled_df = int(n_seeds.sum() - x.size)
    scaled = residual / scale[row_level]
    shared = _shared_by_seed(scaled, row_level, table.group)
    if shared is not None:
        return Levels(x, mean, n_seeds, scale, row_level, noise, *shared, symbol=table.x_symbol)
    variance = float(np.sum(scaled**2)) / pooled_df if pooled_df else 0.0
    return Levels(x, mean, n_seeds, scale, row_level, noise, variance, pooled_df, symbol=table.x_symbol)


def scatter_trend(table: LossTable, levels: Levels) -> ScatterTrend | None:
    """What pooling the noise takes for granted, put to the test; None with fewer than two levels of several seeds."""
    repeated = levels.n_seeds > 1
    if repeated.sum() < 2:
        return None
    residual = (table.loss - levels.mean[levels.row_level]) / levels.scale[levels.row_level]
    squares = np.bincount(levels.row_level, weights=residual**2)
    scatter = np.sqrt(squares[repeated] / (levels.n_seeds[repeated] - 1))
    found = kendalltau(levels.x[repeated], scatter)
    return ScatterTrend(levels.x[repeated], scatter, float(found.statistic), float(found.pvalue))


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


def _numbers(frame: pd.DataFrame, column: str) -> Float[np.ndarray, " rows"]:
    numeric = pd.to_numeric(frame[column], errors="coerce")
    text = frame[column].notna() & numeric.isna()
    if text.any():
        value = frame.loc[text, column].iloc[0]
        if not (isinstance(value, str) and value.strip().lower() in {"", "nan", "none", "null", "inf", "-inf"}):
            raise InputError(f"{column} = '{value}' is not a number: correct that row or choose another column.")
    return np.asarray(numeric.to_numpy(dtype=np.float64))


def _require_positive(x: Float[np.ndarray, " rows"], name: str) -> None:
    bad = x[~(x > 0) | ~np.isfinite(x)]
    if bad.size:
        raise InputError(f"{name} = {bad[0]:g} has no logarithm: give only values above 0 (drop that row).")


def _odds(errors: LossTable) -> LossTable:
    keep = (errors.loss > 0) & (errors.loss < 1)
    dropped = tuple(f"row {row}: an accuracy of {1 - errors.loss[row]:g} has no logit" for row in np.flatnonzero(~keep))
    group = None if errors.group is None else tuple(np.asarray(errors.group)[keep].tolist())
    odds = errors.loss[keep] / (1.0 - errors.loss[keep])
    # A single test task has accuracy 0 or 1 far too often for its own odds: only their mean has a logit.
    return replace(errors, x=errors.x[keep], loss=odds, group=group, task_losses=None, dropped=errors.dropped + dropped)


def _shared_by_seed(
    residual: Float[np.ndarray, " rows"], row_level: Int[np.ndarray, " rows"], group: tuple[str, ...] | None
) -> tuple[float, int, float, int] | None:
    """Two-way analysis of variance of scaled residuals: (own variance, df, shared variance, df).

    None unless every seed ran exactly once at every level; nothing is shared unless seeds differ (F test, 5 %).
    """
    names, seed = np.unique(np.asarray(group if group is not None else ()), return_inverse=True)
    n_levels, n_seeds = int(row_level.max()) + 1, names.size
    if n_seeds < 2 or n_levels < 3 or n_levels * n_seeds != residual.size:
        return None
    if np.unique(row_level * n_seeds + seed).size != residual.size:
        return None
    per_seed = np.bincount(seed, weights=residual) / n_levels
    df, shared_df = (n_levels - 1) * (n_seeds - 1), n_seeds - 1
    own = float(np.sum((residual - per_seed[seed]) ** 2)) / df
    between = n_levels * float(np.sum(per_seed**2)) / shared_df
    if between <= own * float(f_distribution.ppf(0.95, shared_df, df)):
        # Own variance all the same: choosing it only when it is small would make intervals of β too narrow (89 %).
        return own, df, 0.0, 0
    return own, df, (between - own) / n_levels, shared_df


def _kind_of_noise(
    residual: Float[np.ndarray, " rows"],
    mean: Float[np.ndarray, " levels"],
    n_seeds: Int[np.ndarray, " levels"],
    row_level: Int[np.ndarray, " rows"],
) -> Noise:
    """Gaussian −2 log-likelihood of the seeds' scatter under both kinds; relative unless absolute wins clearly."""
    df = n_seeds.sum() - n_seeds.size
    absolute, relative = np.sum(residual**2), np.sum((residual / mean[row_level]) ** 2)
    if df == 0 or min(absolute, relative) <= 0:
        return "relative"
    gain = df * np.log(relative / absolute) + 2 * np.sum((n_seeds - 1) * np.log(mean))
    return "absolute" if gain > _ABSOLUTE_NOISE_MUST_WIN_BY else "relative"


def distinct_groups(group: Sequence[str] | None) -> int:
    """How many seeds there are by name; 1 where rows carry none."""
    return 1 if group is None else len(set(group))
