"""The verdict as one plain sentence for people."""

import numpy as np

from reptile_scaling.laws.law import Law
from reptile_scaling.laws.verdict import curve


def verdict_sentence(law: Law) -> str:
    """What happened, how sure it is, and what it could also be."""
    verdict, name = law.verdict, law.table.y_name
    what = {
        "loss": name,
        "error_rate": f"the error rate (1 - {name})",
        "logit_accuracy": f"the odds of an error ({name})",
    }
    subject = what[law.transform]
    match verdict.form:
        case "insufficient_data":
            text = f"Insufficient data: {verdict.reasons[0]}; {verdict.reasons[-1]}"
        case "flat":
            text = f"No scaling detected: {subject} does not fall with {law.table.x_name}; {verdict.reasons[-1]}"
        case "rising":
            text = f"No scaling detected: {subject} rises with {law.table.x_name} ({verdict.reasons[0]})"
        case "not_a_simple_law":
            start = "Falls, but by no simple law" if verdict.scaling_detected else "No scaling law detected"
            text = f"{start}: {subject} over {law.table.x_name}; {verdict.reasons[-1]}"
        case _:
            text = f"{subject[0].upper()}{subject[1:]} {_falls(law)}; {_last_cut(law)}"
    return f"{text}.{_alternatives(law)}"


def _falls(law: Law) -> str:
    candidate, x = law.candidates[law.verdict.form], law.table.x_name
    match law.verdict.form:
        case "power":
            return f"falls as a power of {x}: β = {_with_interval(law, 'beta')}"
        case "power_floor":
            floor, beta = _with_interval(law, "floor"), _with_interval(law, "beta")
            return f"falls as a power of {x} to a floor of {floor}: β = {beta}"
        case _:
            fall = candidate.parameters["b"] * np.log(10.0)
            return f"falls in a straight line over log {x}, by {fall:.3g} for every factor of ten"


def _with_interval(law: Law, key: str) -> str:
    candidate = law.candidates[law.verdict.form]
    if key not in candidate.interval:
        return f"{candidate.parameters[key]:.3g} (no interval: {candidate.reason})"
    low, high = candidate.interval[key]
    return f"{candidate.parameters[key]:.3g} (95 % interval {low:.3g} to {high:.3g})"


def _last_cut(law: Law) -> str:
    """From a tenth of the largest N to the largest N, or from the smallest where N spans less: inside the data."""
    first, last = float(law.levels.x[0]), float(law.levels.x[-1])
    before, after = curve(law.candidates[law.verdict.form], np.array([max(first, last / 10.0), last]))
    cut = f"{100.0 * (1.0 - after / before):.0f} %" if min(before, after) > 0 else f"{before - after:.3g}"
    way = f"the last tenfold increase, to {last:g}," if last >= 10.0 * first else f"going from {first:g} to {last:g}"
    return f"on this curve {way} cut it by {cut}"


def _alternatives(law: Law) -> str:
    names = [name.replace("_", " ") for name in law.verdict.alternatives]
    return f" These data cannot rule out: {', '.join(names)}." if names else ""
