"""What a law says where nothing was measured: the loss at N', and the x a target needs, both with intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from reptile_scaling.laws.candidates import Candidate
from reptile_scaling.laws.forms import Form, evaluate
from reptile_scaling.laws.levels import Levels
from reptile_scaling.laws.open_forms import chosen_candidate, open_candidates
from reptile_scaling.laws.table import Transform, from_scale, to_scale
from reptile_scaling.laws.verdict import Verdict

# Beyond this multiple of the largest N a form that fits equally well inside may be anywhere.
FAR = 4.0


@dataclass(frozen=True)
class Prediction:
    """Mean over seeds at each x with its 95 % interval (NaN where there is none), in the table's own unit.

    The interval is of that mean, not of a single run; it reaches over the forms that the data cannot rule out.
    """

    x: Float[np.ndarray, " M"]
    value: Float[np.ndarray, " M"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]
    form: str
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """One object per x; null where there is no interval."""
        rows = zip(self.x, self.value, self.low, self.high, strict=True)
        points = [{"x": float(n), "value": _number(v), "ci95": _pair(lo, hi)} for n, v, lo, hi in rows]
        return {"form": self.form, "points": points, "warnings": list(self.warnings)}


@dataclass(frozen=True)
class TasksNeeded:
    """The x that reaches `target`: infinite where the law never does; the interval's high end may be too."""

    target: float
    x: float
    low: float
    high: float
    form: str
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Infinite numbers of tasks are null: no such N."""
        return {
            "target": self.target,
            "x": _number(self.x),
            "ci95": _pair(self.low, self.high),
            "form": self.form,
            "warnings": list(self.warnings),
        }


def predict_loss(
    candidates: dict[str, Candidate],
    verdict: Verdict,
    levels: Levels,
    transform: Transform,
    x: Float[np.ndarray, " M"],
) -> Prediction:
    """The verdict's curve; its interval reaches over those of all forms not ruled out."""
    chosen = chosen_candidate(candidates, verdict)
    value = evaluate(chosen.form, chosen.fits.parameters, x)[0]
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    ends = [np.percentile(evaluate(form, draws, x), [2.5, 97.5], axis=0) for form, draws in _draws(candidates, verdict)]
    if ends:
        low, high = np.minimum(np.min(ends, axis=0)[0], value), np.maximum(np.max(ends, axis=0)[1], value)
    low, high = np.sort(np.stack([from_scale(low, transform), from_scale(high, transform)]), axis=0)
    return Prediction(
        x,
        from_scale(value, transform),
        low,
        high,
        chosen.form.name,
        _distance_warnings(levels, float(x.max()), verdict),
    )


def solve_for_target(
    candidates: dict[str, Candidate], verdict: Verdict, levels: Levels, transform: Transform, target: float
) -> TasksNeeded:
    """The inverse of `predict_loss`; draws that never reach the target count as infinitely many tasks."""
    chosen = chosen_candidate(candidates, verdict)
    scaled = float(to_scale(np.array([target]), transform)[0])
    if verdict.form in ("flat", "rising", "insufficient_data") or not verdict.scaling_detected:
        why = f"the verdict is {verdict.form}: no {levels.symbol} is known to reach {target:g}"
        return TasksNeeded(target, np.inf, np.inf, np.inf, chosen.form.name, (why,))
    needed = float(_invert(chosen.form, chosen.fits.parameters, scaled)[0])
    low, high = np.nan, np.nan
    members = _draws(candidates, verdict)
    if members:
        ends = [
            np.percentile(_invert(form, draws, scaled), [2.5, 97.5], method="inverted_cdf") for form, draws in members
        ]
        low, high = min(needed, np.min(ends)), max(needed, np.max(ends))
    warnings = _distance_warnings(levels, needed, verdict)
    if not np.isfinite(needed):
        warnings += (f"{chosen.form.name} never reaches {target:g}: its floor is above it or the fall has ended",)
    return TasksNeeded(target, needed, float(low), float(high), chosen.form.name, warnings)


def _draws(candidates: dict[str, Candidate], verdict: Verdict) -> list[tuple[Form, Float[np.ndarray, "B P"]]]:
    """Of the open forms that have any."""
    members = open_candidates(candidates, verdict)
    return [(c.form, c.draws.hierarchical) for c in members if c.draws is not None]


def _invert(form: Form, parameters: Float[np.ndarray, "B P"], target: float) -> Float[np.ndarray, " B"]:
    """The smallest x at which a falling curve is down to `target`; infinite where it never is."""
    with np.errstate(all="ignore"):
        x = form.invert(list(parameters.T), target)
    return np.asarray(np.where(np.isnan(x), np.inf, np.maximum(x, 1.0)))


def _distance_warnings(levels: Levels, x: float, verdict: Verdict) -> tuple[str, ...]:
    largest = float(levels.x[-1])
    found: tuple[str, ...] = ()
    if np.isfinite(x) and x > FAR * largest:
        found += (
            f"{levels.symbol} = {x:.4g} is {x / largest:.3g} times the largest {levels.symbol} measured ({largest:g}): "
            f"beyond {FAR:g} times, forms that fit equally well here part ways",
        )
    if not verdict.scaling_detected:
        found += (f"the verdict is {verdict.form}: there is no law to extrapolate",)
    return found


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _pair(low: float, high: float) -> list[float | None] | None:
    return None if np.isnan(low) else [_number(low), _number(high)]
