"""What to run next: designs within a budget, each played through from the current fit.

Legend: `B` simulated sweeps · `K` levels · `P` parameters.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import f as f_distribution

from reptile_scaling.errors import InputError
from reptile_scaling.laws.candidates import NO_NOISE, Candidate
from reptile_scaling.laws.evidence import RULED_OUT_LEVEL
from reptile_scaling.laws.fitting import fit_many
from reptile_scaling.laws.forms import LOG_LINEAR, PLACED, POWER, POWER_FLOOR, Form, evaluate
from reptile_scaling.laws.law import Law
from reptile_scaling.laws.linear import Residual
from reptile_scaling.laws.noise import NoiseLaw
from reptile_scaling.laws.open_forms import chosen_candidate
from reptile_scaling.randomness import stream

Goal = Literal["narrow_beta", "decide"]
N_SIMULATED = 400
# Where no form is identified yet, plans are played through with the middle of what sweeps here have shown.
ASSUMED_BETA, ASSUMED_NOISE = 0.3, 0.05


@dataclass(frozen=True)
class Plan:
    """New runs at each of `levels`, and what sweeps simulated with them (old runs kept) come to.

    `beta_width` is the width that holds 95 % of errors of β (of b in a straight line), now and with the new runs;
    `decided` the share of sweeps in which the rival form is ruled out. `assumptions` are not from the data.
    """

    name: str
    levels: tuple[int, ...]
    new_seeds: tuple[int, ...]
    task_steps: float
    form: str
    rival: str
    beta_width_now: float | None
    beta_width: float
    decided: float
    assumptions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, **{key: list(getattr(self, key)) for key in ("levels", "new_seeds", "assumptions")}}


@dataclass(frozen=True)
class _Truth:
    """What is played through: a form with draws of its parameters, the noise of one run, the rival."""

    form: Form
    parameters: Float[np.ndarray, "B P"]
    sigma: float
    noise_law: NoiseLaw
    rival: Form
    residual: Residual
    assumptions: tuple[str, ...]


def plan_levels(
    law: Law, *, budget: float | int, task_steps_per_run: float | int = 1.0, goal: Goal = "narrow_beta", seed: int = 0
) -> tuple[Plan, ...]:
    """Plans that fit the budget, best first: most seeds, wider ranges, denser levels.

    `budget` and `task_steps_per_run` share a unit (meta-steps × meta-batch); with the default, budget counts runs.
    Raises InputError where the budget does not pay for a single run.
    """
    n_runs = int(budget // task_steps_per_run)
    if n_runs < 1:
        raise InputError(f"budget = {budget:g} pays for no run of {task_steps_per_run:g}: give {task_steps_per_run:g}.")
    truth = _what_is_played(law, seed)
    now = _beta_width(truth, law.levels.x, law.levels.n_seeds, seed) if law.levels.x.size >= 3 else None
    plans = []
    for name, levels in _designs(law).items():
        chosen, seeds = _spread(levels, n_runs)
        merged = np.union1d(law.levels.x, chosen)
        count = _old_seeds(law, merged) + np.where(
            np.isin(merged, chosen), seeds[np.searchsorted(chosen, merged) % len(seeds)], 0
        )
        if merged.size < 3:
            continue
        width, decided = _beta_width(truth, merged, count, seed), _decided(truth, merged, count, seed)
        plans.append(
            Plan(
                name,
                tuple(int(n) for n in chosen),
                tuple(int(s) for s in seeds),
                float(seeds.sum() * task_steps_per_run),
                truth.form.name,
                truth.rival.name,
                now,
                width,
                decided,
                truth.assumptions,
            )
        )
    return tuple(sorted(plans, key=lambda plan: plan.beta_width if goal == "narrow_beta" else -plan.decided))


def _designs(law: Law) -> dict[str, Float[np.ndarray, " K"]]:
    """Sets of levels worth comparing; whole numbers of tasks."""
    x = law.levels.x
    first, last = max(1.0, x[0]), float(x[-1])
    designs = {
        "more seeds at every level": x,
        "more seeds at both ends": x[[0, -1]] if x.size > 1 else x,
        "four times further": np.array([2 * last, 4 * last]),
        "sixteen times further": np.array([4 * last, 16 * last]),
        "denser: between the levels": np.sqrt(x[1:] * x[:-1]) if x.size > 1 else x,
        "eight levels over 4 times the range": np.geomspace(first, 4 * last, 8),
    }
    return {name: np.unique(np.maximum(np.round(levels), 1.0)) for name, levels in designs.items()}


def _spread(levels: Float[np.ndarray, " K"], n_runs: int) -> tuple[Float[np.ndarray, " chosen"], np.ndarray]:
    """Runs dealt evenly over the levels, outermost first where there are fewer runs than levels."""
    k = levels.size
    if n_runs < k:
        order = np.argsort(-np.abs(np.arange(k) - (k - 1) / 2), kind="stable")
        levels, k = np.sort(levels[order[:n_runs]]), n_runs
    seeds = np.full(k, n_runs // k)
    seeds[k - n_runs % k :] += 1 if n_runs % k else 0
    return levels, seeds


def form_and_rival(law: Law) -> tuple[Candidate | None, Form | None]:
    """The likeliest identified form with an exponent, and the one it is to be told from; None where there is none."""
    candidate = chosen_candidate(law.candidates, law.verdict)
    if candidate.form.exponent is None:
        candidate = law.candidates.get("power", candidate)
    if candidate.draws is None or candidate.form.exponent is None:
        return None, None
    open_forms = [
        n for n in law.verdict.alternatives if n in law.candidates and n not in (*PLACED, candidate.form.name)
    ]
    if open_forms:
        return candidate, law.candidates[max(open_forms, key=lambda name: law.candidates[name].weight)].form
    return candidate, {"power": LOG_LINEAR, "log_linear": POWER, "power_floor": POWER}[candidate.form.name]


def _what_is_played(law: Law, seed: int) -> _Truth:
    """The verdict's form with its draws and its strongest rival; an assumed power law where nothing is identified."""
    candidate, rival = form_and_rival(law)
    if candidate is None or rival is None or candidate.draws is None:
        scale = float(law.levels.mean[0]) * float(law.levels.x[0]) ** ASSUMED_BETA
        parameters = np.tile([scale, ASSUMED_BETA], (N_SIMULATED, 1))
        words = (f"no form is identified yet: played through with beta = {ASSUMED_BETA:g}, noise {ASSUMED_NOISE:.0%}",)
        sigma = float(np.sqrt(law.levels.pooled_variance)) if law.levels.pooled_df else ASSUMED_NOISE
        return _Truth(POWER, parameters, sigma, law.levels.noise_law, POWER_FLOOR, law.levels.residual, words)
    rows = stream(seed, "plan", "parameters").integers(0, len(candidate.draws.hierarchical), N_SIMULATED)
    sigma = float(np.sqrt(candidate.variance))
    drawn = candidate.draws.hierarchical[rows]
    return _Truth(candidate.form, drawn, sigma, law.levels.noise_law, rival, law.levels.residual, ())


def _simulate(truth: _Truth, x: Float[np.ndarray, " K"], seeds: np.ndarray, seed: int) -> Float[np.ndarray, "B K"]:
    rng = stream(seed, "plan", "noise")
    spread = truth.noise_law.spread(x)
    noise = truth.sigma * spread * rng.standard_normal((len(truth.parameters), x.size)) / np.sqrt(seeds)
    curve = evaluate(truth.form, truth.parameters, x)
    if truth.residual == "plain":
        return np.asarray(curve + noise)
    return np.asarray(np.maximum(curve, 1e-9) * np.exp(np.clip(noise, -3.0, 3.0)))


def _beta_width(truth: _Truth, x: Float[np.ndarray, " K"], seeds: np.ndarray, seed: int) -> float:
    """Width between the 2.5 % and 97.5 % points of (estimate − truth) over simulated sweeps."""
    y = _simulate(truth, x, seeds, seed)
    fits = fit_many(truth.form, x, y, _weights(truth, x, seeds), residual=truth.residual, exact=False)
    low, high = np.percentile(fits.parameters[:, 1] - truth.parameters[:, 1], [2.5, 97.5])
    return float(high - low)


def _decided(truth: _Truth, x: Float[np.ndarray, " K"], seeds: np.ndarray, seed: int) -> float:
    """Share of simulated sweeps whose F test at the verdict's level rules the simpler or equal rival out."""
    y = _simulate(truth, x, seeds, seed)
    forms = [truth.form, truth.rival]
    rss = [fit_many(f, x, y, _weights(truth, x, seeds), residual=truth.residual, exact=False).rss for f in forms]
    extra = max(truth.form.n_parameters - truth.rival.n_parameters, 1)
    df = int(seeds.sum()) - truth.form.n_parameters
    if df <= 0:
        return 0.0
    limit = max(truth.sigma**2, NO_NOISE) * float(f_distribution.ppf(1.0 - RULED_OUT_LEVEL, extra, df))
    return float(np.mean((rss[1] - rss[0]) / extra > limit))


def _weights(truth: _Truth, x: Float[np.ndarray, " K"], seeds: np.ndarray) -> Float[np.ndarray, "1 K"]:
    return np.asarray(seeds / truth.noise_law.spread(x) ** 2)[None]


def _old_seeds(law: Law, merged: Float[np.ndarray, " K"]) -> np.ndarray:
    old = dict(zip(law.levels.x.tolist(), law.levels.n_seeds.tolist(), strict=True))
    return np.array([old.get(n, 0) for n in merged.tolist()])
