"""Two arms of a sweep (algorithm A and B, one head and another) on the same N, seeds and test tasks.

Legend: `B` draws · `K` levels.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as t_distribution

from reptile_scaling.errors import InputError
from reptile_scaling.laws.fitting import Fits, fit_many, residuals
from reptile_scaling.laws.forms import FORMS, Form, evaluate, form_named
from reptile_scaling.laws.law import N_BOOTSTRAP
from reptile_scaling.laws.table import Levels, LossTable, gather_levels, pool_variance, pool_with_misfit
from reptile_scaling.laws.uncertainty import refit, shift_by_tasks
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
        df = rows.size - difference.size
        variance = np.sum(rows**2) / max(df, 1) * scale**2 / levels_a.n_seeds
    else:
        df = levels_a.pooled_df + levels_b.pooled_df
        parts = [lv.pooled_variance * lv.scale**2 / lv.n_seeds for lv in (levels_a, levels_b)]
        variance = parts[0] + parts[1]
    by_tasks = _task_variance(a, b, levels_a, levels_b)
    if df == 0 and not by_tasks.any():
        return difference, np.full_like(difference, np.nan), np.full_like(difference, np.nan)
    half = t_distribution.ppf(0.975, df if df else 1e6) * np.sqrt(variance + by_tasks)
    return difference, difference - half, difference + half


def _task_variance(a: LossTable, b: LossTable, levels_a: Levels, levels_b: Levels) -> Float[np.ndarray, " K"]:
    """Variance of the mean over test tasks of the difference at each N; 0 unless both arms have the same tasks."""
    if not _same_tasks(a, b):
        return np.zeros(levels_a.x.size)
    assert a.task_losses is not None and b.task_losses is not None
    gap = _by_level(b.task_losses, levels_b.row_level) - _by_level(a.task_losses, levels_a.row_level)
    return np.asarray(gap.var(axis=1, ddof=1) / gap.shape[1])


def _same_tasks(a: LossTable, b: LossTable) -> bool:
    if a.task_losses is None or b.task_losses is None:
        return False
    return bool(a.task_losses.shape[1] == b.task_losses.shape[1] and a.task_losses.shape[1] > 1)


def _by_level(task_losses: Float[np.ndarray, "rows tasks"], row_level: Int[np.ndarray, " rows"]) -> np.ndarray:
    return np.stack([task_losses[row_level == level].mean(axis=0) for level in range(int(row_level.max()) + 1)])


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
    arms = zip((levels_a, levels_b), (a, b), fits, noise, strict=True)
    betas = []
    for levels, table, fit, own in arms:
        # The same stream for both arms: the same test tasks are drawn for both.
        tasks = shift_by_tasks(table, levels, n_bootstrap, stream(seed, "compare", "tasks"))
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
    noise_a, noise_b = (_drawn(levels_a, variance, df, n, rng) for variance, df in estimates)
    if not paired:
        return [noise_a, noise_b]
    variance, df = _variance_of_gap(form, a, b, levels_a, levels_b, fits)
    return [noise_a, noise_a + _drawn(levels_a, variance, df, n, rng)]


def _drawn(levels: Levels, variance: float, df: int, n: int, rng: np.random.Generator) -> Float[np.ndarray, "B K"]:
    sigma = np.sqrt(variance * df / rng.chisquare(df, n))
    return np.asarray(sigma[:, None] * rng.standard_normal((n, levels.x.size)) / np.sqrt(levels.weights))


def _variance_of_gap(
    form: Form, a: LossTable, b: LossTable, levels_a: Levels, levels_b: Levels, fits: list[Fits]
) -> tuple[float, int]:
    """s² of a pair's gap in the unit of the residual, from pairs within levels and the misfit of the curves' gap."""
    within = [(t.loss - lv.mean[lv.row_level]) / lv.scale[lv.row_level] for t, lv in ((a, levels_a), (b, levels_b))]
    df = within[0].size - levels_a.x.size
    pure = float(np.sum((within[1] - within[0]) ** 2)) / df if df else 0.0
    misfit = [
        residuals(form, fit.parameters, lv.x, lv.mean[None], lv.residual)[0]
        for fit, lv in zip(fits, (levels_a, levels_b), strict=True)
    ]
    rss = float(levels_a.weights @ (misfit[1] - misfit[0]) ** 2)
    return pool_with_misfit(pure, df, rss, levels_a.x.size - form.n_parameters)
