"""The law of a table: every form with its intervals, a verdict, and what it predicts."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from reptile_scaling.laws.candidates import Candidate, fit_candidates
from reptile_scaling.laws.fitting import fit_huber
from reptile_scaling.laws.forms import FORMS
from reptile_scaling.laws.levels import Levels, gather_levels
from reptile_scaling.laws.open_forms import exponent_interval
from reptile_scaling.laws.prediction import Prediction, TasksNeeded, predict_loss, solve_for_target
from reptile_scaling.laws.table import LossTable, Transform, distinct_groups, transformed
from reptile_scaling.laws.verdict import Verdict, decide

N_BOOTSTRAP = 1000
NAMED_ROWS = 4
"""Dropped rows that a warning names."""
UNEVEN_NOISE_P = 0.01
"""p of a constant noise below which a warning says that it goes with x."""


@dataclass(frozen=True)
class Law:
    """What is known after a fit. `table` and `levels` are on the scale of `transform`, where the forms fall."""

    table: LossTable
    levels: Levels
    transform: Transform
    candidates: dict[str, Candidate]
    verdict: Verdict
    warnings: tuple[str, ...]
    n_bootstrap: int
    seed: int

    def predict(self, x: Float[np.ndarray, " M"] | Int[np.ndarray, " M"] | float | int) -> Prediction:
        """Mean over seeds at each x in the table's own unit, with a 95 % interval; warns beyond 4 × the largest x."""
        return predict_loss(
            self.candidates,
            self.verdict,
            self.levels,
            self.transform,
            np.atleast_1d(np.asarray(x, dtype=np.float64)),
        )

    def tasks_needed(self, target: float | int) -> TasksNeeded:
        """The x at which the mean over seeds reaches `target`, with a 95 % interval; infinite where it never does."""
        return solve_for_target(self.candidates, self.verdict, self.levels, self.transform, float(target))

    def exponent_interval(self) -> tuple[float, float] | None:
        """95 % interval of the verdict's β that knows of the choice: over its form and those not ruled out beside it.

        Of a single form, taken as given, `candidates[form].interval` says less. None where the verdict has no β.
        """
        return exponent_interval(self.candidates, self.verdict)

    def why_unidentified(self, name: str) -> str:
        """Why a form of FORMS says nothing here; empty where it is identified."""
        candidate = self.candidates.get(name)
        if candidate is not None:
            return candidate.reason
        n_levels, needed = self.levels.x.size, FORMS[name].min_levels
        if n_levels < needed:
            return f"{n_levels} levels of {self.levels.symbol}, and {name} needs {needed}"
        return "the losses are not all positive"

    def as_json(self) -> dict[str, Any]:
        """The object `fit --json` prints: plain numbers, and null wherever nothing is known."""
        return {
            "n_points": int(self.table.loss.size),
            "n_levels": int(self.levels.x.size),
            "n_seeds": distinct_groups(self.table.group) if self.table.group else int(self.levels.n_seeds.max()),
            "transform": self.transform,
            "forms": {name: _form_json(name, self) for name in FORMS},
            "verdict": {
                "form": self.verdict.form,
                "scaling_detected": self.verdict.scaling_detected,
                "alternatives": list(self.verdict.alternatives),
                "beta_ci95": _pair(self.exponent_interval()),
                "reasons": list(self.verdict.reasons),
            },
            "warnings": list(self.warnings),
            "log": _log_json(self),
        }


def fit_law(table: LossTable, *, transform: Transform = "loss", n_bootstrap: int = N_BOOTSTRAP, seed: int = 0) -> Law:
    """Fit every form to the table and decide. Same table and seed, same law.

    Raises InputError only for a table no law can be asked of (see LossTable); doubt becomes a status with reasons.
    """
    scaled = transformed(table, transform)
    levels = gather_levels(scaled)
    candidates = fit_candidates(scaled, levels, n_bootstrap, seed)
    verdict = decide(candidates, levels)
    return Law(
        scaled,
        levels,
        transform,
        candidates,
        verdict,
        _warnings(scaled, levels, candidates, verdict),
        n_bootstrap,
        seed,
    )


def _warnings(table: LossTable, levels: Levels, candidates: dict[str, Candidate], verdict: Verdict) -> tuple[str, ...]:
    found = []
    if levels.pooled_df == 0:
        found.append("one seed per level: the noise is guessed from the misfit of the curve; run a second seed")
    if (table.loss <= 0).any():
        found.append(
            f"{table.y_name} = {table.loss.min():g} is not positive: noise is taken as absolute, no broken law"
        )
    if levels.x[-1] < 10 * levels.x[0]:
        found.append(
            f"{levels.symbol} spans a factor of {levels.x[-1] / levels.x[0]:.3g}: exponents need a factor of 10 or more"
        )
    if table.dropped:
        named = "; ".join(table.dropped[:NAMED_ROWS])
        more = "; more in log.dropped" if len(table.dropped) > NAMED_ROWS else ""
        found.append(f"{len(table.dropped)} rows are not in the fit: {named}{more}")
    found.extend(_uneven_noise(levels))
    chosen = candidates.get(verdict.form)
    if chosen is not None and "beta" in chosen.interval:
        huber = fit_huber(chosen.form, table.x, table.loss, levels.residual, levels.spread)
        robust, (low, high) = huber[chosen.form.parameters.index("beta")], chosen.interval["beta"]
        slack = 1e-3 * (abs(low) + abs(high))  # draws know their exponent to four digits
        if not low - slack <= robust <= high + slack:
            found.append(
                f"without outliers (Huber) beta would be {robust:.3g}, outside its interval: look at single runs"
            )
    return tuple(found)


def _uneven_noise(levels: Levels) -> list[str]:
    """Where the seeds' scatter clearly goes up or down with x; the fit knows, readers of a figure should too."""
    law = levels.noise_law
    if not law.p_value < UNEVEN_NOISE_P:
        return []
    less = "less" if law.exponent > 0 else "more"
    first, last = np.sqrt(levels.pooled_variance) * levels.spread[[0, -1]]
    unit = "of the mean" if levels.noise == "relative" else "in absolute terms"
    return [
        f"the seeds scatter {less} at large {levels.symbol}: {first:.2g} {unit} at {levels.x[0]:g}, {last:.2g} at "
        f"{levels.x[-1]:g} (sigma falls with {levels.symbol} to the power {law.exponent:.2f}, 95 % interval "
        f"{law.interval[0]:.2f} to {law.interval[1]:.2f}; constant noise has p = {law.p_value:.1g}); "
        "levels are weighed by it"
    ]


def _form_json(name: str, law: Law) -> dict[str, Any]:
    form, candidate, levels, table = FORMS[name], law.candidates.get(name), law.levels, law.table
    nothing = dict.fromkeys(form.parameters)
    if candidate is None:
        return {
            **nothing,
            "formula": form.formula.format(x=levels.symbol),
            "identified": False,
            "reason": law.why_unidentified(name),
            "ci95": nothing,
            "holdout_error": None,
            "loo_error": None,
            "weight": 0.0,
            "r2": None,
        }
    draws = candidate.draws
    resampled = {} if draws is None or draws.resampled is None else candidate.intervals_of(draws.resampled)
    wild = {} if draws is None or draws.wild is None else candidate.intervals_of(draws.wild)
    profile = {} if candidate.profile is None else {"beta": candidate.profile}
    robust = fit_huber(form, table.x, table.loss, levels.residual, levels.spread)
    huber = dict(zip(form.parameters, robust.tolist(), strict=True))
    return {
        **{key: _number(value) for key, value in candidate.parameters.items()},
        "formula": form.formula.format(x=levels.symbol),
        "identified": candidate.identified,
        "reason": candidate.reason or None,
        "ci95": {key: _pair(candidate.interval.get(key)) for key in form.parameters},
        "ci95_resampled": {key: _pair(resampled.get(key)) for key in form.parameters},
        "ci95_wild": {key: _pair(wild.get(key)) for key in form.parameters},
        "ci95_profile": {key: _pair(profile.get(key)) for key in form.parameters if key == "beta"},
        "huber": {key: _number(huber.get(key)) for key in form.parameters},
        "holdout_error": _number(candidate.holdout_error),
        "loo_error": _number(candidate.loo_error),
        "weight": _number(candidate.weight),
        "r2": _number(candidate.r2),
    }


def _log_json(law: Law) -> dict[str, Any]:
    """Everything needed to repeat the fit by hand: points, weights, objective, bounds, versions."""
    levels = law.levels
    return {
        "x_name": law.table.x_name,
        "y_name": law.table.y_name,
        "levels": levels.x.tolist(),
        "level_means": levels.mean.tolist(),
        "seeds_per_level": levels.n_seeds.tolist(),
        "weights": [_number(value) for value in levels.weights.tolist()],
        "noise": levels.noise,
        "noise_exponent": levels.noise_law.exponent,
        "noise_exponent_ci95": _pair(levels.noise_law.interval),
        "constant_noise_p": _number(levels.noise_law.p_value),
        "seed_noise": _number(float(np.sqrt(levels.pooled_variance))) if levels.pooled_df else None,
        "seed_noise_df": levels.pooled_df,
        "noise_shared_by_a_seed": _number(float(np.sqrt(levels.shared_variance))) if levels.shared_df else None,
        "points_used": int(law.table.loss.size),
        "dropped": list(law.table.dropped),
        "objective": "sum over levels of weight * (mean - form)^2; exponent by grid and refinement, the rest exact",
        "rss": {name: _number(float(c.fits.rss[0])) for name, c in law.candidates.items()},
        "converged": {name: bool(np.isfinite(c.fits.parameters).all()) for name, c in law.candidates.items()},
        "bounds_hit": {name: bool(c.fits.at_bound[0]) for name, c in law.candidates.items() if c.fits.at_bound[0]},
        "information": {name: _number(c.information) for name, c in law.candidates.items()},
        "intervals": "ci95: hierarchical (misfit, seeds, test tasks), beta with its profile; "
        f"ci95_resampled: {levels.symbol} x seed x test task; ci95_wild: over {levels.symbol}",
        "n_bootstrap": law.n_bootstrap,
        "seed": law.seed,
        "versions": {name: version(name) for name in ("numpy", "scipy", "pandas")},
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _pair(interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if interval is None else [_number(interval[0]), _number(interval[1])]
