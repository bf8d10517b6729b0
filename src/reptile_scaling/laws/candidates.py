"""One form fitted to one table with all that is known about the fit; every doubtful fit is a status with a reason."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from reptile_scaling.laws.fitting import Fits, fit_many, residuals
from reptile_scaling.laws.forms import FORMS, Form, evaluate
from reptile_scaling.laws.levels import Levels, pool_variance
from reptile_scaling.laws.table import LossTable
from reptile_scaling.laws.uncertainty import Draws, draw_parameters, percentile_interval, profile_interval
from reptile_scaling.randomness import stream

# What counts as no noise: a relative error of 1e-6 of the loss, below anything a training run reproduces.
NO_NOISE = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A fitted form. `misfit` is the relative root mean square of what it misses the level means by.

    `variance` is s² of one row in units of scale², from seeds and misfit together, on `df` degrees of freedom.
    `information` is AICc; `weight` its share among the identified forms. Errors of left-out levels are relative.
    `holdout_rss` is what the largest level adds to the sum of squares, whose rest `rest_information` is AICc of.
    """

    form: Form
    fits: Fits
    identified: bool
    reason: str
    variance: float
    df: int
    misfit: float
    information: float
    weight: float
    holdout_error: float | None
    holdout_rss: float | None
    rest_information: float
    loo_error: float | None
    r2: float | None
    draws: Draws | None
    profile: tuple[float, float] | None

    @property
    def parameters(self) -> dict[str, float]:
        """The fitted numbers by name."""
        return {name: float(value) for name, value in zip(self.form.parameters, self.fits.parameters[0], strict=True)}

    @property
    def interval(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the hierarchical bootstrap, β's widened to its profile; empty where not identified.

        The two agree to a few percent of their width; together they cover a percent more than either.
        """
        if self.draws is None or not self.identified:
            return {}
        found = self.intervals_of(self.draws.hierarchical)
        if self.profile is not None:
            found["beta"] = (min(found["beta"][0], self.profile[0]), max(found["beta"][1], self.profile[1]))
        return found

    def intervals_of(self, draws: Float[np.ndarray, "B P"]) -> dict[str, tuple[float, float]]:
        """Percentile intervals by name from any of the bootstraps."""
        if not len(draws):
            return {}
        low, high = percentile_interval(draws)
        return {name: (float(low[i]), float(high[i])) for i, name in enumerate(self.form.parameters)}


def fit_candidates(table: LossTable, levels: Levels, n_bootstrap: int, seed: int) -> dict[str, Candidate]:
    """Every form the number of levels can carry at all (as many levels as parameters), with weights that sum to 1."""
    possible = [form for form in FORMS.values() if _can_be_fitted(form, levels)]
    fitted: dict[str, Candidate] = {
        form.name: fit_candidate(form, table, levels, n_bootstrap, seed) for form in possible
    }
    information = {name: c.information for name, c in fitted.items() if c.identified and np.isfinite(c.information)}
    if not information:
        return fitted
    best = min(information.values())
    raw = {name: float(np.exp(-0.5 * (value - best))) for name, value in information.items()}
    total = sum(raw.values())
    return {name: _with_weight(c, raw.get(name, 0.0) / total) for name, c in fitted.items()}


def _can_be_fitted(form: Form, levels: Levels) -> bool:
    if form.needs_positive_losses and not (levels.mean > 0).all():
        return False
    return bool(levels.x.size >= form.min_levels_to_fit)


def fit_candidate(form: Form, table: LossTable, levels: Levels, n_bootstrap: int, seed: int) -> Candidate:
    """One form with its intervals, errors of left-out levels and status; the weight is given when all are known."""
    fits = fit_many(form, levels.x, levels.mean[None], levels.weights[None], residual=levels.residual)
    rss = float(fits.rss[0])
    variance, df = pool_variance(levels, rss, form.n_parameters)
    reason = _why_not_identified(form, levels, fits)
    identified = not reason
    draws = (
        draw_parameters(form, table, levels, fits, n_bootstrap, stream(seed, "law", form.name)) if identified else None
    )
    if identified and draws is None:
        reason = "no noise estimate: one seed per level and no level to spare, so there is no interval"
    left_out = _left_out(form, levels)
    return Candidate(
        form,
        fits,
        identified,
        reason,
        variance,
        df,
        misfit=_misfit(form, fits, levels),
        information=_information(form, table.loss.size, levels, rss),
        weight=0.0,
        holdout_error=None if left_out is None else float(left_out.errors[-1]),
        holdout_rss=None if left_out is None else max(rss - float(left_out.rss[-1]), 0.0),
        rest_information=np.inf
        if left_out is None
        else _information(form, table.loss.size - int(levels.n_seeds[-1]), levels, float(left_out.rss[-1])),
        loo_error=None if left_out is None else float(np.sqrt(np.mean(left_out.errors**2))),
        r2=_r2(form, table, fits),
        draws=draws,
        profile=profile_interval(form, levels, fits) if identified else None,
    )


def _misfit(form: Form, fits: Fits, levels: Levels) -> float:
    """Root mean square of the level means' residuals as a share of the loss, every run counting alike."""
    gap = residuals(form, fits.parameters, levels.x, levels.mean[None], levels.residual)[0]
    return float(np.sqrt(levels.n_seeds @ gap**2 / levels.n_seeds.sum() / levels.loss_size))


def _why_not_identified(form: Form, levels: Levels, fits: Fits) -> str:
    """Empty when the levels can say something about every parameter."""
    k = levels.x.size
    if k < form.min_levels:
        needed = form.min_levels
        return f"{k} levels of {levels.symbol}, and {form.name} needs {needed}: run {needed - k} more"
    return form.doubt(fits.parameters[0], bool(fits.at_bound[0])).format(x=levels.symbol)


def _information(form: Form, n_rows: int, levels: Levels, rss: float) -> float:
    """AICc of level means with the noise pooled from seeds and misfit: n·log((SS_seeds + rss) / n) + penalty.

    Seeds within a level add to what is known of the noise, nothing to what is known of the form. A place that is
    searched for counts twice (for the place of a change Ninomiya 2015 finds the worth of three parameters).
    """
    n, k = n_rows, form.n_searched + 1
    if n - k - 1 <= 0:
        return float("inf")
    squares = max(levels.pooled_variance * levels.pooled_df + rss, n * NO_NOISE * levels.loss_size)
    return float(n * np.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


@dataclass(frozen=True)
class _LeftOut:
    """|prediction / mean − 1| of each level from a fit to the others (the last extrapolates), and that fit's rss."""

    errors: Float[np.ndarray, " K"]
    rss: Float[np.ndarray, " K"]


def _left_out(form: Form, levels: Levels) -> _LeftOut | None:
    """A fit without each level in turn; None where too few are left."""
    k = levels.x.size
    if k - 1 < form.n_parameters or k < 2:
        return None
    kept: Bool[np.ndarray, "K K"] = ~np.eye(k, dtype=bool)
    means = np.tile(levels.mean, (k, 1))
    fits = fit_many(form, levels.x, means, levels.weights * kept, residual=levels.residual)
    predicted = np.diag(evaluate(form, fits.parameters, levels.x))
    reference = np.where(levels.mean == 0, 1.0, levels.mean)
    return _LeftOut(np.abs((predicted - levels.mean) / reference), fits.rss)


def _r2(form: Form, table: LossTable, fits: Fits) -> float | None:
    """Share of the rows' variance explained; None where there is no variance to explain."""
    total = float(np.sum((table.loss - table.loss.mean()) ** 2))
    if total <= NO_NOISE * float(np.sum(table.loss**2)):
        return None
    residual = table.loss - evaluate(form, fits.parameters, table.x)[0]
    return 1.0 - float(np.sum(residual**2)) / total


def _with_weight(candidate: Candidate, weight: float) -> Candidate:
    return replace(candidate, weight=weight)
