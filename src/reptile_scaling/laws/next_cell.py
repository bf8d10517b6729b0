"""One run more: which cell, at what price, tells most? For a sweep that is planned as it goes.

Legend: `K` levels · `P` parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t as t_distribution

from reptile_scaling.errors import InputError
from reptile_scaling.laws.candidates import NO_NOISE, Candidate
from reptile_scaling.laws.fitting import fit_many
from reptile_scaling.laws.forms import Form, evaluate
from reptile_scaling.laws.law import Law
from reptile_scaling.laws.levels import Levels
from reptile_scaling.laws.planning import Goal, form_and_rival

# Parameters move by this much of themselves for a derivative: the cube root of the machine's precision.
_STEP = 6e-6
# A run where the noise law says less than this share of the middle's σ is priced as if it had that: extrapolated noise
# must not promise a certainty that no seed has shown.
_LEAST_SPREAD = 0.3


@dataclass(frozen=True)
class NextCell:
    """One run at `x` for `price`: width of the exponent's 95 % interval now and after it, and how far two forms part.

    `separation` is by how many standard deviations (of all runs together) the rival misses the likeliest curve.
    `gain_per_price` is what the list is sorted by: log of the width, or squared separations, per unit of price.
    """

    x: float
    price: float
    width_now: float
    width_after: float
    separation_now: float
    separation_after: float
    gain_per_price: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return dict(self.__dict__)


def next_cells(
    law: Law, *, price: Callable[[float], float], goal: Goal = "narrow_beta", largest_x: float | None = None
) -> tuple[NextCell, ...]:
    """Every cell worth a run, the one that tells most for its price first.

    `price(x)` is what one run at x costs, in task-steps or money; `largest_x` the most that can be run (four times what
    was measured by default). Raises InputError where no form with an exponent is identified, or a price is not above 0.
    """
    candidate, rival = form_and_rival(law)
    if candidate is None or rival is None or candidate.df == 0:
        raise InputError(f"the verdict is {law.verdict.form}: nothing to narrow yet, run plan_levels' first plan.")
    return rank_cells(candidate, rival, law.levels, price=price, goal=goal, largest_x=largest_x)


def rank_cells(
    candidate: Candidate,
    rival: Form,
    levels: Levels,
    *,
    price: Callable[[float], float],
    goal: Goal,
    largest_x: float | None = None,
) -> tuple[NextCell, ...]:
    """`next_cells` for one form and its rival."""
    places = _places(levels, largest_x or 4.0 * float(levels.x[-1]))
    variance = max(candidate.variance, NO_NOISE * levels.loss_size)
    before, df = _information(candidate, levels, levels.x, levels.n_seeds.astype(float), variance), candidate.df
    now = _width(candidate, before, df)
    apart = _separation(candidate, rival, levels, None, variance) if goal == "decide" else np.nan
    found = []
    for x in places:
        cost = float(price(float(x)))
        if not cost > 0:
            raise InputError(f"price({x:g}) = {cost:g}: give a price above 0.")
        after = _width(candidate, before + _information(candidate, levels, np.array([x]), np.ones(1), variance), df + 1)
        then = _separation(candidate, rival, levels, float(x), variance) if goal == "decide" else np.nan
        gain = float(np.log(now / after)) if goal == "narrow_beta" else then**2 - apart**2
        found.append(NextCell(float(x), cost, now, after, apart, then, gain / cost))
    return tuple(sorted(found, key=lambda cell: -cell.gain_per_price))


def _places(levels: Levels, largest_x: float) -> Float[np.ndarray, " K"]:
    """The levels, those between them, and one and two doublings beyond either end; whole numbers."""
    x = levels.x
    tried = np.concatenate([x, np.sqrt(x[1:] * x[:-1]), x[-1] * np.array([2.0, 4.0]), x[0] / np.array([2.0, 4.0])])
    return np.unique(np.clip(np.round(tried), 1.0, np.floor(largest_x)))


def _information(
    candidate: Candidate,
    levels: Levels,
    x: Float[np.ndarray, " K"],
    n_runs: Float[np.ndarray, " K"],
    variance: float,
) -> Float[np.ndarray, "P P"]:
    """Fisher information of runs at x: Σ n · gradient gradientᵀ / σ², the gradient in the unit of the residual."""
    gradient = _gradient(candidate, levels, x)
    spread = np.maximum(levels.noise_law.spread(x), _LEAST_SPREAD)
    return np.asarray((gradient * (n_runs / spread**2 / variance)) @ gradient.T)


def _gradient(candidate: Candidate, levels: Levels, x: Float[np.ndarray, " K"]) -> Float[np.ndarray, "P K"]:
    """Central differences of the curve, or of its logarithm, in each parameter."""
    best = candidate.fits.parameters[0]
    step = _STEP * np.maximum(np.abs(best), 1e-3)
    moved = np.stack([best + sign * np.diag(step)[i] for i in range(best.size) for sign in (1.0, -1.0)])
    value = evaluate(candidate.form, moved, x)
    value = np.log(np.maximum(value, 1e-300)) if levels.residual == "log" else value
    return np.asarray((value[::2] - value[1::2]) / (2.0 * step[:, None]))


def _width(candidate: Candidate, information: Float[np.ndarray, "P P"], df: int) -> float:
    """Width of the 95 % interval of the exponent, with Student's factor for the degrees of freedom of the noise."""
    assert candidate.form.exponent is not None
    which = candidate.form.parameters.index(candidate.form.exponent)
    variance = float(np.linalg.pinv(information, rcond=1e-14)[which, which])
    return 2.0 * float(t_distribution.ppf(0.975, df)) * float(np.sqrt(max(variance, 0.0)))


def _separation(candidate: Candidate, rival: Form, levels: Levels, x: float | None, variance: float) -> float:
    """√(rss of the rival fitted to the candidate's curve / s²), with one run more at x."""
    places = levels.x if x is None else np.union1d(levels.x, [x])
    old = dict(zip(levels.x.tolist(), levels.n_seeds.tolist(), strict=True))
    runs = np.array([old.get(place, 0) + (place == x) for place in places.tolist()], dtype=np.float64)
    weights = runs / np.maximum(levels.noise_law.spread(places), _LEAST_SPREAD) ** 2
    curve = evaluate(candidate.form, candidate.fits.parameters, places)
    return float(np.sqrt(fit_many(rival, places, curve, weights[None], residual=levels.residual).rss[0] / variance))
