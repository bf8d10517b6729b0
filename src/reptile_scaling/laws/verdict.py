"""What the table says about scaling, in one word, with the words it cannot rule out and the reasons in plain ones."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from reptile_scaling.laws.candidates import NO_NOISE, Candidate, level_scale
from reptile_scaling.laws.forms import evaluate
from reptile_scaling.laws.table import Levels

VerdictForm = Literal["power", "power_floor", "log_linear", "flat", "rising", "not_a_simple_law", "insufficient_data"]
FALLING: tuple[Literal["power", "power_floor", "log_linear"], ...] = ("power", "power_floor", "log_linear")

# One-sided level of the trend test: flat data is called scaling in about 1 %, since the noise is that of the form
# that happens to fit best; rising data practically never.
TREND_LEVEL = 0.005
# A form is ruled out when another beats it by this F test; four rivals at ½ % keep the true form in 98 %.
RULED_OUT_LEVEL = 0.005
# Too small to matter, as a share of the loss: a change of 5 % over the range of N, a floor below 5 % of the last level.
MATERIAL_SHARE = 0.05
# A broken law contains the power law, so no test rules it out; it is named when the break earns its parameters.
BREAK_LEVEL = 0.32
# A change of the mean known no better than to a quarter is not called flat: nothing was found because little was run.
TOO_VAGUE_TO_BE_FLAT = 0.25
# Seeds can be so precise that any formula is rejected; a misfit below 1 % of the loss is still a usable law.
TOLERATED_MISFIT = 0.01


@dataclass(frozen=True)
class Verdict:
    """`form` in one word; `alternatives` are the forms that the data cannot rule out beside it."""

    form: VerdictForm
    scaling_detected: bool
    alternatives: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Trend:
    """Slope over log N in standard errors, positive where the loss falls, with p of a one-sided test each way.

    `total_change_interval` is the 95 % interval of the change from first to last N, as a share of the loss.
    """

    t: float
    df: int
    p_falling: float
    p_rising: float
    total_change_interval: tuple[float, float]


def decide(candidates: dict[str, Candidate], levels: Levels) -> Verdict:
    """The verdict from hold-out, leave-one-out and information weights on level means; R² plays no part."""
    if levels.x.size < 3:
        return _insufficient(levels)
    if float(np.ptp(levels.mean)) <= 1e-9 * float(np.abs(levels.mean).max()):
        return Verdict("flat", False, (), ("all levels have the same loss",))
    trend = measure_trend(candidates, levels)
    if trend is None:
        return _insufficient(levels)
    if trend.p_falling < TREND_LEVEL:
        return _falling(candidates, levels, trend)
    if _is_not_simple(candidates, levels):
        reasons = (
            _trend_words(trend, levels),
            "no simple form fits: the level means lie further from every curve than seeds explain",
        )
        simpler = "rising" if trend.p_rising < TREND_LEVEL else "flat"
        return Verdict("not_a_simple_law", False, (*_broken_if_possible(candidates), simpler), reasons)
    if trend.p_rising < TREND_LEVEL:
        maybe = ("flat",) if trend.p_rising > TREND_LEVEL / 5 else ()
        return Verdict(
            "rising",
            False,
            maybe,
            (_trend_words(trend, levels), f"a larger {levels.symbol} makes it worse: look at the protocol first"),
        )
    return _flat(candidates, levels, trend)


def measure_trend(candidates: dict[str, Candidate], levels: Levels) -> Trend | None:
    """Weighted slope over log N with the noise of the best-fitting form, so that curvature is not taken for noise."""
    identified = [c for c in candidates.values() if c.identified and c.df > 0]
    if not identified or "log_linear" not in candidates:
        return None
    noise = min(identified, key=lambda c: c.variance)
    relative = levels.noise == "relative"
    y, log_x, share = np.log(levels.mean) if relative else levels.mean, np.log(levels.x), levels.weights
    centred = log_x - float(share @ log_x) / share.sum()
    spread = float(share @ centred**2)
    slope = -float(share @ (centred * y)) / spread
    error = float(np.sqrt(max(noise.variance, NO_NOISE * level_scale(levels)) / spread))
    half = float(t_distribution.ppf(0.975, noise.df)) * error
    unit = 1.0 if relative else abs(float(share @ y) / share.sum()) or 1.0
    low, high = (-float(np.ptp(log_x)) * value / unit for value in (slope + half, slope - half))
    change = (float(np.expm1(low)), float(np.expm1(min(high, 50.0)))) if relative else (low, high)
    t = slope / error
    return Trend(t, noise.df, float(t_distribution.sf(t, noise.df)), float(t_distribution.cdf(t, noise.df)), change)


def beats(challenger: Candidate, form: Candidate, levels: Levels, level: float = RULED_OUT_LEVEL) -> bool:
    """Whether `challenger` fits better than `form` by an F test at `level`, for its extra parameters (one at least).

    A break that is searched for counts as one parameter more than it has: without a break it is not identified,
    and the best of many places is found by chance more often than χ²(1) says (Davies 1987).
    """
    extra = max(challenger.form.n_parameters - form.form.n_parameters, 1) + (challenger.form.outer_is_a_position)
    df = levels.pooled_df + levels.x.size - challenger.form.n_parameters
    if df <= 0:
        return False
    rss, better = float(form.fits.rss[0]), float(challenger.fits.rss[0])
    squares = levels.pooled_variance * levels.pooled_df + better
    variance = max(squares / df, NO_NOISE * level_scale(levels))
    return bool((rss - better) / extra > variance * float(f_distribution.ppf(1.0 - level, extra, df)))


def not_ruled_out(candidates: dict[str, Candidate], levels: Levels) -> list[str]:
    """Forms that no other beats; simple forms compete among themselves, the broken law only where it is needed."""
    usable = {name: c for name, c in candidates.items() if c.identified and name != "broken"}
    return [
        name
        for name, form in usable.items()
        if not any(beats(other, form, levels) for rival, other in usable.items() if rival != name)
    ]


def _falling(candidates: dict[str, Candidate], levels: Levels, trend: Trend) -> Verdict:
    broken = candidates.get("broken")
    open_forms = not_ruled_out(candidates, levels)
    left = [name for name in FALLING if name in open_forms]
    left = left or [max(FALLING, key=lambda name: candidates[name].weight if name in candidates else -1.0)]
    best = max(left, key=lambda name: candidates[name].weight)
    reasons = [_trend_words(trend, levels)]
    others: list[str] = [name for name in left if name != best and _is_material(candidates[name], levels)]
    if broken is not None and _turns_up(broken, levels) and beats(broken, candidates[best], levels):
        return Verdict(
            "not_a_simple_law",
            False,
            ("broken", *others),
            (*reasons, f"the loss falls to {levels.symbol} = {broken.parameters['n_break']:.3g} and rises after it"),
        )
    if _is_not_simple(candidates, levels):
        reasons.append("no simple form fits: the level means lie further from every curve than seeds explain")
        others = [name for name in left if broken is not None and not beats(broken, candidates[name], levels)]
        return Verdict("not_a_simple_law", True, (*_broken_if_possible(candidates), *others), tuple(reasons))
    if broken is not None and broken.identified and beats(broken, candidates[best], levels, BREAK_LEVEL):
        others.append("broken")
    if _change_may_be_nothing(trend):
        others.append("flat")
    reasons += _comparison_words(candidates, levels, best, others)
    return Verdict(best, True, tuple(others), tuple(reasons))


def _flat(candidates: dict[str, Candidate], levels: Levels, trend: Trend) -> Verdict:
    low, high = trend.total_change_interval
    reasons = [
        _trend_words(trend, levels),
        f"from {levels.symbol} = {levels.x[0]:g} to {levels.x[-1]:g} the change is between "
        f"{100 * low:+.1f} % and {100 * high:+.1f} % of the mean (95 %)",
    ]
    others: list[str] = []
    if low < -MATERIAL_SHARE:
        others += [name for name in FALLING if name in candidates and candidates[name].identified]
        reasons.append(
            f"a fall of up to {-100 * low:.0f} % is not ruled out: more seeds or a wider range of {levels.symbol} "
            "would tell"
        )
    if high > MATERIAL_SHARE:
        others.append("rising")
    broken = candidates.get("broken")
    if broken is not None and broken.identified and beats(broken, candidates["constant"], levels, TREND_LEVEL):
        others.append("broken")
    if low < -TOO_VAGUE_TO_BE_FLAT:
        return Verdict("insufficient_data", False, ("flat", *others), tuple(reasons))
    return Verdict("flat", False, tuple(others), tuple(reasons))


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


def _is_not_simple(candidates: dict[str, Candidate], levels: Levels) -> bool:
    """Every simple form misses the level means by more than seeds explain, and by more than is tolerable."""
    simple = [c for name, c in candidates.items() if name != "broken" and c.identified]
    best = min(simple, key=lambda c: float(c.fits.rss[0]))
    if best.misfit < TOLERATED_MISFIT * 0.5 or levels.x.size < 5:
        return False
    broken = candidates.get("broken")
    if broken is not None and broken.identified and all(beats(broken, c, levels, 0.01) for c in simple):
        return True
    return _misfits_seeds(best, levels)


def _misfits_seeds(candidate: Candidate, levels: Levels) -> bool:
    df = levels.x.size - candidate.form.n_parameters
    if df <= 0 or levels.pooled_df == 0 or candidate.misfit < TOLERATED_MISFIT:
        return False
    ratio = float(candidate.fits.rss[0]) / df / max(levels.pooled_variance, NO_NOISE * level_scale(levels))
    return bool(ratio > f_distribution.ppf(1.0 - RULED_OUT_LEVEL, df, levels.pooled_df))


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


def _change_may_be_nothing(trend: Trend) -> bool:
    return trend.p_falling > TREND_LEVEL / 5


def _broken_if_possible(candidates: dict[str, Candidate]) -> tuple[str, ...]:
    return ("broken",) if "broken" in candidates and candidates["broken"].identified else ()


def _trend_words(trend: Trend, levels: Levels) -> str:
    p, way = (trend.p_falling, "falls") if trend.t > 0 else (trend.p_rising, "rises")
    by = f"{abs(trend.t):.1f} standard errors (one-sided p = {p:.2g}, {trend.df} df)"
    return f"the loss {way} over log {levels.symbol} by {by}"


def _comparison_words(candidates: dict[str, Candidate], levels: Levels, best: str, others: list[str]) -> list[str]:
    words = [f"{best} has information weight {candidates[best].weight:.2f}"]
    for key, what in (
        ("holdout_error", f"largest {levels.symbol} left out"),
        ("loo_error", f"each {levels.symbol} left out"),
    ):
        known = {
            n: getattr(c, key) for n, c in candidates.items() if n in (best, *others) and getattr(c, key) is not None
        }
        if best in known:
            errors = ", ".join(f"{n} {100 * value:.1f} %" for n, value in known.items())
            words.append(
                f"error with the {what}: {errors}" if key == "holdout_error" else f"error with {what}: {errors}"
            )
    if others:
        words.append(f"cannot be told apart from {', '.join(others)} by these data")
    return words


def curve(candidate: Candidate, x: np.ndarray) -> np.ndarray:
    """The fitted curve at x."""
    return np.asarray(evaluate(candidate.form, candidate.fits.parameters, x)[0])
