"""Two arms of a sweep (algorithm A and B, one head and another) on the same N, seeds and test tasks.

Legend: `B` draws · `K` levels · `R` rows.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t as t_distribution

from reptile_scaling.errors import InputError
from reptile_scaling.laws.effects import task_effects
from reptile_scaling.laws.fitting import Fits, fit_many, residuals
from reptile_scaling.laws.forms import FORMS, Form, evaluate, form_named
from reptile_scaling.laws.law import N_BOOTSTRAP
from reptile_scaling.laws.levels import Levels, gather_levels, pool_variance, pool_with_misfit
from reptile_scaling.laws.noise import NoiseLaw, even_noise, fit_noise_law
from reptile_scaling.laws.table import LossTable
from reptile_scaling.laws.uncertainty import level_task_losses, refit, shift_by_tasks
from reptile_scaling.randomness import stream


@dataclass(frozen=True)
class Comparison:
    """B − A: loss at each N and exponent of `form`, with 95 % intervals (NaN where neither seeds nor tasks give one).

    `n_pairs` rows of the same N and seed were compared; 0 means that nothing paired them and arms count as independent.
    """

    x: Float[np.ndarray, " K"]
    difference: Float[np.ndarray, " K"]
    low: Float[np.ndarray, " K"]
    high: Float[np.ndarray, " K"]
    form: str
    exponent: str
    exponent_difference: float | None
    exponent_interval: tuple[float, float] | None
    n_pairs: int
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; null where there is no interval."""
        rows = zip(self.x, self.difference, self.low, self.high, strict=True)
        levels = [
            {"x": float(n), "difference": float(d), "ci95": None if np.isnan(lo) else [float(lo), float(hi)]}
            for n, d, lo, hi in rows
        ]
        interval = None if self.exponent_interval is None else list(self.exponent_interval)
        exponent = {"difference": self.exponent_difference, "ci95": interval, "name": self.exponent, "form": self.form}
        return {"levels": levels, "exponent": exponent, "n_pairs": self.n_pairs, "warnings": list(self.warnings)}


def compare_arms(
    table_a: LossTable, table_b: LossTable, *, form: str = "power", n_bootstrap: int = N_BOOTSTRAP, seed: int = 0
) -> Comparison:
    """Difference B − A on the levels both have, paired by seed and by test task where they share them.

    Pairing matters: what a seed or a hard task does to both arms is not a difference between them.
    Raises InputError for arms without a common N or a form without an exponent.
    """
    chosen = form_named(form)
    if chosen.exponent is None:
        having = [name for name, other in FORMS.items() if other.exponent is not None]
        raise InputError(f"form = '{form}' has no exponent to compare: choose one of {', '.join(having)}.")
    shared = np.intersect1d(table_a.x, table_b.x)
    if not shared.size:
        raise InputError(f"the arms share no {table_a.x_name}: measure both at the same levels.")
    a, b, n_pairs = _paired(_only(table_a, np.isin(table_a.x, shared)),
                            _only(table_b, np.isin(table_b.x, shared)))  # fmt: skip
    levels_a, levels_b = gather_levels(a), gather_levels(b)
    difference, low, high = _difference(a, b, levels_a, levels_b, paired=n_pairs > 0)
    gap, interval = _exponent_difference(chosen, a, b, levels_a, levels_b, n_pairs > 0, n_bootstrap, seed)
    warnings = [] if n_pairs else ["no seed ran in both arms: they are compared as independent"]
    if interval is None:
        warnings.append(f"{levels_a.x.size} shared levels of {levels_a.symbol} do not identify the exponent of {form}")
    return Comparison(levels_a.x, difference, low, high, form, chosen.exponent, gap, interval, n_pairs,
                      tuple(warnings))  # fmt: skip


def _paired(a: LossTable, b: LossTable) -> tuple[LossTable, LossTable, int]:
    """Rows of the same (N, seed) in the same order; all rows where none match."""
    if a.group is None or b.group is None:
        return a, b, 0
    row_a = {key: i for i, key in enumerate(zip(a.x.tolist(), a.group, strict=True))}
    row_b = {key: i for i, key in enumerate(zip(b.x.tolist(), b.group, strict=True))}
    keys = sorted(row_a.keys() & row_b.keys())
    if not keys:
        return a, b, 0
    return _only(a, np.array([row_a[k] for k in keys])), _only(b, np.array([row_b[k] for k in keys])), len(keys)


def _only(table: LossTable, rows: np.ndarray) -> LossTable:
    group = None if table.group is None else tuple(np.asarray(table.group)[rows].tolist())
    per_task = None if table.task_losses is None else table.task_losses[rows]
    return replace(table, x=table.x[rows], loss=table.loss[rows], group=group, task_losses=per_task)


def _difference(
    a: LossTable, b: LossTable, levels_a: Levels, levels_b: Levels, *, paired: bool
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Difference of level means with a t interval: noise pooled over N, relative to the mean of both arms."""
    difference = levels_b.mean - levels_a.mean
    scale = (np.abs(levels_a.mean) + np.abs(levels_b.mean)) / 2
    if paired:
        rows = (b.loss - a.loss - difference[levels_a.row_level]) / scale[levels_a.row_level]
        law, own, df = _noise_of(levels_a, rows)
        variance = own * (scale * law.spread(levels_a.x)) ** 2 / levels_a.n_seeds
    else:
        df = levels_a.pooled_df + levels_b.pooled_df
        parts = [lv.pooled_variance * lv.unit**2 / lv.weights for lv in (levels_a, levels_b)]
        variance = parts[0] + parts[1]
    by_tasks = _task_variance(a, b, levels_a, levels_b)
    if df == 0 and not by_tasks.any():
        return difference, np.full_like(difference, np.nan), np.full_like(difference, np.nan)
    half = t_distribution.ppf(0.975, df if df else 1e6) * np.sqrt(variance + by_tasks)
    return difference, difference - half, difference + half


def _noise_of(levels: Levels, rows: Float[np.ndarray, " R"]) -> tuple[NoiseLaw, float, int]:
    """How the scatter of pairs goes with x, its s² and degrees of freedom."""
    df = int(levels.n_seeds.sum() - levels.x.size)
    if df == 0:
        return even_noise(levels.x), 0.0, 0
    squares = np.bincount(levels.row_level, weights=rows**2)
    law = fit_noise_law(levels.x, squares, (levels.n_seeds - 1).astype(np.float64))
    return law, float(np.sum(squares / law.spread(levels.x) ** 2)) / df, df


def _task_variance(a: LossTable, b: LossTable, levels_a: Levels, levels_b: Levels) -> Float[np.ndarray, " K"]:
    """Variance of the mean difference at each N over other test classes and tasks; 0 without tasks in common."""
    if not _same_tasks(a, b):
        return np.zeros(levels_a.x.size)
    gap = level_task_losses(b, levels_b) - level_task_losses(a, levels_a)
    return task_effects(gap, a.task_classes).variance


def _task_shifts(
    a: LossTable, b: LossTable, levels_a: Levels, levels_b: Levels, n: int, seed: int
) -> list[Float[np.ndarray, "B K"]]:
    """How the level means of both arms move with other test classes and tasks: the same ones for both arms."""
    if not _same_tasks(a, b):
        streams = (stream(seed, "compare", "tasks", arm) for arm in ("a", "b"))
        arms = zip((a, b), (levels_a, levels_b), streams, strict=True)
        return [shift_by_tasks(table, levels, n, rng) for table, levels, rng in arms]
    both = np.hstack([level_task_losses(t, lv) / lv.unit for t, lv in ((a, levels_a), (b, levels_b))])
    shift = task_effects(both, a.task_classes).drawn_shift(n, stream(seed, "compare", "tasks"))
    return np.split(shift, 2, axis=1)


def _same_tasks(a: LossTable, b: LossTable) -> bool:
    if a.task_losses is None or b.task_losses is None:
        return False
    return bool(a.task_losses.shape[1] == b.task_losses.shape[1] and a.task_losses.shape[1] > 1)


def _exponent_difference(
    form: Form,
    a: LossTable,
    b: LossTable,
    levels_a: Levels,
    levels_b: Levels,
    paired: bool,
    n_bootstrap: int,
    seed: int,
) -> tuple[float | None, tuple[float, float] | None]:
    """Exponent of B minus A, both refitted to draws whose noise is paired as the arms are."""
    fits = [fit_many(form, lv.x, lv.mean[None], lv.weights[None], residual=lv.residual) for lv in (levels_a, levels_b)]
    if levels_a.x.size < form.n_parameters or form.exponent is None:
        return None, None
    which = form.parameters.index(form.exponent)
    gap = float(fits[1].parameters[0, which] - fits[0].parameters[0, which])
    if levels_a.x.size < form.min_levels:
        return gap, None
    noise = _correlated_noise(form, a, b, levels_a, levels_b, fits, paired, n_bootstrap, seed)
    if noise is None:
        return gap, None
    shifts = _task_shifts(a, b, levels_a, levels_b, n_bootstrap, seed)
    betas = []
    for levels, fit, own, tasks in zip((levels_a, levels_b), fits, noise, shifts, strict=True):
        curve = evaluate(form, fit.parameters, levels.x)[0]
        betas.append(refit(form, levels, curve, own + tasks, levels.weights[None])[:, which])
    low, high = np.percentile(betas[1] - betas[0], [2.5, 97.5])
    return gap, (float(low), float(high))


def _correlated_noise(
    form: Form, a: LossTable, b: LossTable, levels_a: Levels, levels_b: Levels, fits: list[Fits], paired: bool,
    n: int, seed: int,
) -> list[Float[np.ndarray, "B K"]] | None:  # fmt: skip
    """Noise of level means for both arms; None where there is no estimate of it.

    Where pairs are known, arm B has the noise of arm A and that of the pairs' gap: only the gap moves the difference.
    """
    estimates = [
        pool_variance(lv, float(fit.rss[0]), form.n_parameters)
        for lv, fit in zip((levels_a, levels_b), fits, strict=True)
    ]
    if min(df for _, df in estimates) == 0:
        return None
    rng = stream(seed, "compare", "noise")
    arms = zip((levels_a, levels_b), estimates, strict=True)
    noise_a, noise_b = (_drawn(lv, lv.noise_law, variance, df, n, rng) for lv, (variance, df) in arms)
    if not paired:
        return [noise_a, noise_b]
    law, variance, df = _variance_of_gap(form, a, b, levels_a, levels_b, fits)
    return [noise_a, noise_a + _drawn(levels_a, law, variance, df, n, rng)]


def _drawn(
    levels: Levels, law: NoiseLaw, variance: float, df: int, n: int, rng: np.random.Generator
) -> Float[np.ndarray, "B K"]:
    spread, inflation = law.drawn_spread(levels.x, n, rng)
    sigma = np.sqrt(variance * inflation * df / rng.chisquare(df, n))
    return np.asarray(sigma[:, None] * spread * rng.standard_normal((n, levels.x.size)) / np.sqrt(levels.n_seeds))


def _variance_of_gap(
    form: Form, a: LossTable, b: LossTable, levels_a: Levels, levels_b: Levels, fits: list[Fits]
) -> tuple[NoiseLaw, float, int]:
    """s² of a pair's gap in the unit of the residual and how it goes with x, from pairs and from the curves' misfit."""
    within = [(t.loss - lv.mean[lv.row_level]) / lv.unit[lv.row_level] for t, lv in ((a, levels_a), (b, levels_b))]
    law, pure, df = _noise_of(levels_a, within[1] - within[0])
    misfit = [
        residuals(form, fit.parameters, lv.x, lv.mean[None], lv.residual)[0]
        for fit, lv in zip(fits, (levels_a, levels_b), strict=True)
    ]
    rss = float((levels_a.n_seeds / law.spread(levels_a.x) ** 2) @ (misfit[1] - misfit[0]) ** 2)
    return law, *pool_with_misfit(pure, df, rss, levels_a.x.size - form.n_parameters)
