"""What the table says about scaling, in one word, with the words it cannot rule out and the numbers that decided."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from reptile_scaling.laws.candidates import Candidate
from reptile_scaling.laws.evidence import TOLERATED_MISFIT, Trend, beats, holdout_p, measure_trend, misfits_seeds
from reptile_scaling.laws.forms import PLACED, evaluate
from reptile_scaling.laws.levels import Levels

VerdictForm = Literal[
    "power", "power_floor", "log_linear", "flat", "rising", "not_a_simple_law", "not_resolved", "insufficient_data"
]
FALLING: tuple[Literal["power", "power_floor", "log_linear"], ...] = ("power", "power_floor", "log_linear")

# One-sided level of the trend test, with the noise of the likeliest form: that of the best-fitting one is too small.
TREND_LEVEL = 0.005
# A floor below this share of the last level is none: the form is the plain power law.
MATERIAL_SHARE = 0.05
# A fall of less than this over all of x is as good as none; one that may be larger is not called flat.
MATERIAL_FALL = 0.1
# A form with a place in it (a break, a step) contains the power law or looks like it, so no test rules it out; it is
# named when it earns its parameters, and takes the place of a simple law where it beats every one at the second level.
NAMED_LEVEL, TAKES_OVER_LEVEL = 0.32, 0.005
# Difference in AICc from which one form is e² = 7 times likelier than another; below it nothing tells them apart.
TOLD_APART = 4.0
# F of the largest level by which the better forecast must win, the 90 % point of χ²(1).
FORECAST_WINS_BY = 2.71


@dataclass(frozen=True)
class Verdict:
    """`form` in one word; `alternatives` are the forms that the data cannot rule out beside it.

    Where the form is `not_resolved` or `not_a_simple_law`, the first alternative is the likeliest.
    """

    form: VerdictForm
    scaling_detected: bool
    alternatives: tuple[str, ...]
    reasons: tuple[str, ...]


def decide(candidates: dict[str, Candidate], levels: Levels) -> Verdict:
    """The verdict from trend, F tests, the largest x left out and information weights; R² plays no part."""
    if levels.x.size < 3:
        return _insufficient(levels)
    if float(np.ptp(levels.mean)) <= 1e-9 * float(np.abs(levels.mean).max()):
        return Verdict("flat", False, (), ("all levels have the same loss",))
    trend = measure_trend(candidates, levels)
    if trend is None:
        return _insufficient(levels)
    if trend.p_falling < TREND_LEVEL:
        return _falling(candidates, levels, trend)
    if why := _not_simple(candidates, levels):
        placed = _placed_left(candidates)
        drops = bool(placed) and _falls_for_certain(candidates[placed[0]], candidates["constant"], levels)
        simpler = () if drops else ("rising" if trend.p_rising < TREND_LEVEL else "flat",)
        return Verdict("not_a_simple_law", drops, (*placed, *simpler), (_trend_words(trend, levels), why))
    if trend.p_rising < TREND_LEVEL:
        return _rising(levels, trend)
    return _flat(candidates, levels, trend)


def not_ruled_out(candidates: dict[str, Candidate], levels: Levels) -> list[str]:
    """Simple forms that no other simple one beats; those with a place are compared with the winner."""
    usable = {name: c for name, c in candidates.items() if c.identified and name not in PLACED}
    return [
        name
        for name, form in usable.items()
        if not any(beats(other, form, levels) for rival, other in usable.items() if rival != name)
    ]


def curve(candidate: Candidate, x: np.ndarray) -> np.ndarray:
    """The fitted curve at x."""
    return np.asarray(evaluate(candidate.form, candidate.fits.parameters, x)[0])


def _falling(candidates: dict[str, Candidate], levels: Levels, trend: Trend) -> Verdict:
    open_forms = not_ruled_out(candidates, levels)
    left = [name for name in FALLING if name in open_forms]
    left = left or [max(FALLING, key=lambda name: candidates[name].weight if name in candidates else -1.0)]
    best, forecast_words = _best_of(left, candidates, levels)
    others: list[str] = [name for name in left if name != best and _is_material(candidates[name], levels)]
    reasons = [_trend_words(trend, levels)]
    broken = candidates.get("broken")
    if broken is not None and _turns_up(broken, levels) and beats(broken, candidates[best], levels):
        where = f"the loss falls to {levels.symbol} = {broken.parameters['n_break']:.3g} and rises after it"
        return Verdict("not_a_simple_law", False, ("broken", *others), (*reasons, where))
    placed = _placed_left(candidates)
    if why := _not_simple(candidates, levels):
        unbeaten = [n for n in left if placed and not any(beats(candidates[p], candidates[n], levels) for p in placed)]
        return Verdict("not_a_simple_law", True, (*placed, *unbeaten), (*reasons, why))
    reasons += [*forecast_words, *_comparison_words(candidates, levels, best, others)]
    if placed and (gap := candidates[best].information - candidates[placed[0]].information) > 0:
        reasons.append(f"{placed[0]} is likelier than {best} by {gap:.1f} in AICc, and no test tells them apart")
        return Verdict("not_resolved", True, (placed[0], best, *others, *placed[1:]), tuple(reasons))
    others += [name for name in placed if beats(candidates[name], candidates[best], levels, NAMED_LEVEL)]
    if trend.p_falling > TREND_LEVEL / 5 and _nearly_as_likely(candidates["constant"], candidates[best]):
        others.append("flat")
    elif (low := _lowest_exponent(candidates[best])) <= 0:
        others.append("flat")
        reasons.append(f"with other test classes, tasks and seeds the exponent may be {low:.2g}")
    if others:
        reasons.append(f"cannot be told apart from {', '.join(others)} by these data")
    return Verdict(best, True, tuple(others), tuple(reasons))


def _best_of(
    left: list[Literal["power", "power_floor", "log_linear"]], candidates: dict[str, Candidate], levels: Levels
) -> tuple[Literal["power", "power_floor", "log_linear"], list[str]]:
    """The form of most weight, unless another that the rest cannot tell from it forecasts the largest x better."""
    best = max(left, key=lambda name: candidates[name].weight)
    noise = min((candidates[name] for name in left), key=lambda c: c.variance)
    equal = [n for n in left if abs(candidates[n].rest_information - candidates[best].rest_information) < TOLD_APART]
    missed = {n: candidates[n].holdout_rss for n in equal}
    known = {n: rss / max(noise.variance, 1e-300) for n, rss in missed.items() if rss is not None}
    if best not in known:
        return best, []
    winner = min(known, key=lambda n: known[n])
    if known[best] - known[winner] < FORECAST_WINS_BY:
        return best, []
    p = {n: holdout_p(candidates[n], noise.variance, noise.df) for n in (winner, best)}
    words = (
        f"without {levels.symbol} = {levels.x[-1]:g} {best} and {winner} are equally likely (AICc within "
        f"{TOLD_APART:g}); "
        f"{winner} forecasts it (p = {p[winner]:.2g}), {best} misses it (p = {p[best]:.2g})"
    )
    return winner, [words]


def _lowest_exponent(candidate: Candidate) -> float:
    """The low end of the exponent's interval; infinite where there is none."""
    return candidate.interval.get(candidate.form.exponent or "", (np.inf, np.inf))[0]


def _nearly_as_likely(other: Candidate, best: Candidate) -> bool:
    """Within what tells two forms apart, or where there are too few rows for the criterion."""
    return not other.information - best.information > TOLD_APART


def _rising(levels: Levels, trend: Trend) -> Verdict:
    maybe = ("flat",) if trend.p_rising > TREND_LEVEL / 5 else ()
    why = f"a larger {levels.symbol} makes it worse: look at the protocol first"
    return Verdict("rising", False, maybe, (_trend_words(trend, levels), why))


def _flat(candidates: dict[str, Candidate], levels: Levels, trend: Trend) -> Verdict:
    """Flat where every falling form is worse by weight and no slope that matters is left; else not resolved."""
    low, high = trend.total_change_interval
    constant = candidates["constant"]
    falling = [name for name in (*FALLING, *PLACED) if name in candidates and _is_falling(candidates[name], levels)]
    better = [name for name in falling if candidates[name].information < constant.information]
    better = sorted(better, key=lambda name: candidates[name].information)
    reasons = [
        _trend_words(trend, levels),
        f"from {levels.symbol} = {levels.x[0]:g} to {levels.x[-1]:g} the change is between "
        f"{100 * low:+.1f} % and {100 * high:+.1f} % of the mean (95 %)",
    ]
    others: list[str] = []
    reasons += _likelier_words(falling, candidates)
    if low < -MATERIAL_FALL:
        others += [name for name in falling if name in FALLING and name not in better]
        words = f"a fall of up to {-100 * low:.0f} % is not ruled out: more seeds or a wider range of {levels.symbol} "
        reasons.append(words + "would tell")
    if high > MATERIAL_FALL:
        others.append("rising")
    if better or low < -MATERIAL_FALL:
        return Verdict("not_resolved", False, (*better, "flat", *others), tuple(reasons))
    return Verdict("flat", False, tuple(others), tuple(reasons))


def _likelier_words(falling: list[str], candidates: dict[str, Candidate]) -> list[str]:
    """A constant against the likeliest falling form, where there are rows enough for the criterion."""
    constant, known = candidates["constant"], [n for n in falling if np.isfinite(candidates[n].information)]
    if not known:
        return []
    nearest = min(known, key=lambda name: candidates[name].information)
    gap = candidates[nearest].information - constant.information
    if gap < 0:
        return [f"{nearest} falls and is likelier than a constant by {-gap:.1f} in AICc"]
    return [f"a constant is likelier than every falling form, {nearest} the nearest by {gap:.1f} in AICc"]


def _is_falling(candidate: Candidate, levels: Levels) -> bool:
    first, last = curve(candidate, levels.x[[0, -1]])
    return bool(candidate.identified and last < first)


def _falls_for_certain(placed: Candidate, constant: Candidate, levels: Levels) -> bool:
    """A step or break that a slope over log x is blind to, as where the levels that weigh most lie beyond it."""
    first, last = curve(placed, levels.x[[0, -1]])
    return bool(last < (1.0 - MATERIAL_FALL) * first and beats(placed, constant, levels, TREND_LEVEL / 5))


def _insufficient(levels: Levels) -> Verdict:
    k = levels.x.size
    if k < 3:
        return Verdict(
            "insufficient_data",
            False,
            (),
            (
                f"{k} {'level' if k == 1 else 'levels'} of {levels.symbol}: two numbers always pass through two points",
                f"run at least {3 - k} more {'level' if k == 2 else 'levels'} (5 for a floor), two seeds each or more",
            ),
        )
    return Verdict("insufficient_data", False, (), ("the noise cannot be estimated: run a second seed per level",))


def _not_simple(candidates: dict[str, Candidate], levels: Levels) -> str:
    """Why no simple form will do: one with a break or step beats all, or all miss the level means; else nothing."""
    simple = [c for name, c in candidates.items() if name not in PLACED and c.identified]
    best = min(simple, key=lambda c: float(c.fits.rss[0]))
    if best.misfit < TOLERATED_MISFIT * 0.5 or levels.x.size < 5:
        return ""
    for name in _placed_left(candidates):
        if all(beats(candidates[name], c, levels, TAKES_OVER_LEVEL) for c in simple):
            gap = best.information - candidates[name].information
            return (
                f"no simple form fits: {name} beats each of them (F test, p < {TAKES_OVER_LEVEL:g}), the nearest, "
                f"{best.form.name}, by {gap:.1f} in AICc"
            )
    if misfits_seeds(best, levels):
        return (
            f"no simple form fits: the level means lie {100 * best.misfit:.1f} % from {best.form.name}, the nearest, "
            "further than seeds explain"
        )
    return ""


def _placed_left(candidates: dict[str, Candidate]) -> list[str]:
    """Identified forms with a break or a step, the likeliest first."""
    found = [name for name in PLACED if name in candidates and candidates[name].identified]
    return sorted(found, key=lambda name: candidates[name].information)


def _is_material(candidate: Candidate, levels: Levels) -> bool:
    """A floor that is certainly below 5 % of the last level is no floor: the form is the plain power law."""
    if candidate.form.name != "power_floor" or "floor" not in candidate.interval:
        return True
    return candidate.interval["floor"][1] > MATERIAL_SHARE * float(levels.mean[-1])


def _turns_up(broken: Candidate, levels: Levels) -> bool:
    p = broken.parameters
    return bool(
        broken.identified
        and p["beta"] > 0
        and (levels.x[-1] / p["n_break"]) ** -p["beta_after"] > 1 + 2 * MATERIAL_SHARE
    )


def _trend_words(trend: Trend, levels: Levels) -> str:
    p, way = (trend.p_falling, "falls") if trend.t > 0 else (trend.p_rising, "rises")
    by = f"{abs(trend.t):.1f} standard errors (one-sided p = {p:.2g}, {trend.df} df)"
    return f"the loss {way} over log {levels.symbol} by {by}"


def _comparison_words(candidates: dict[str, Candidate], levels: Levels, best: str, others: list[str]) -> list[str]:
    words = [f"{best} has information weight {candidates[best].weight:.2f}"]
    for key, what in (
        ("holdout_error", f"the largest {levels.symbol} left out"),
        ("loo_error", f"each {levels.symbol} left out"),
    ):
        known = {
            n: getattr(c, key) for n, c in candidates.items() if n in (best, *others) and getattr(c, key) is not None
        }
        if best in known:
            words.append(f"error with {what}: " + ", ".join(f"{n} {100 * value:.1f} %" for n, value in known.items()))
    return words
