"""Which forms an answer reaches over once the verdict is known: its own and those that it leaves open.

Choosing a form is a source of error that no form's own interval knows of. So intervals of the open forms are joined;
docs/law.md counts how often the truth is inside. Mixed by weight instead, predictions covered it in 90 % of sweeps.
"""

from reptile_scaling.laws.candidates import Candidate
from reptile_scaling.laws.verdict import Verdict

SMALLEST_WEIGHT = 0.05
"""Information weight below which an alternative moves no interval."""


def chosen_candidate(candidates: dict[str, Candidate], verdict: Verdict) -> Candidate:
    """The form that draws the curve: the verdict's own, or the one that stands in where it names none."""
    named = ("constant",) if verdict.form == "insufficient_data" else (verdict.form, *verdict.alternatives)
    for name in ("constant" if form == "flat" else form for form in named):
        if name in candidates:
            return candidates[name]
    monotone = [candidates[n] for n in ("power", "log_linear", "power_floor") if n in candidates]
    return max(monotone, key=lambda c: c.weight)


def open_candidates(candidates: dict[str, Candidate], verdict: Verdict) -> list[Candidate]:
    """The chosen form, then the alternatives of weight enough; none where there are too few data for a verdict."""
    if verdict.form == "insufficient_data":
        return []
    chosen = chosen_candidate(candidates, verdict)
    others = [candidates[n] for n in verdict.alternatives if n in candidates and n != chosen.form.name]
    return [chosen, *(c for c in others if c.weight >= SMALLEST_WEIGHT or chosen.weight == 0.0)]


def exponent_interval(candidates: dict[str, Candidate], verdict: Verdict) -> tuple[float, float] | None:
    """95 % interval of the verdict's β over all open forms that fall with one; None where the verdict's has none."""
    if candidates.get(verdict.form) is None or candidates[verdict.form].form.exponent != "beta":
        return None
    ends = [
        c.interval["beta"]
        for c in open_candidates(candidates, verdict)
        if c.form.exponent == "beta" and "beta" in c.interval
    ]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None
