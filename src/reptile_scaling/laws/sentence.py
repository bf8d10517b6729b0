"""The verdict as one plain sentence for people."""

import numpy as np

from reptile_scaling.laws.forms import Say
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
        case "not_resolved":
            start = "Falls, but the form is not resolved" if verdict.scaling_detected else "Not resolved"
            text = f"{start}: {subject} over {law.table.x_name}; {verdict.reasons[-1]}"
        case "not_a_simple_law":
            start = "Falls, but by no simple law" if verdict.scaling_detected else "No scaling law detected"
            text = f"{start}: {subject} over {law.table.x_name}; {verdict.reasons[-1]}"
        case _:
            text = f"{subject[0].upper()}{subject[1:]} {_falls(law)}; {_last_cut(law)}"
    return f"{text}.{_alternatives(law)}"


def _falls(law: Law) -> str:
    candidate = law.candidates[law.verdict.form]
    say = Say(candidate.parameters, candidate.interval, candidate.reason)
    return candidate.form.words(law.table.x_name, say)


def _last_cut(law: Law) -> str:
    """From a tenth of the largest N to the largest N, or from the smallest where N spans less: inside the data."""
    first, last = float(law.levels.x[0]), float(law.levels.x[-1])
    before, after = curve(law.candidates[law.verdict.form], np.array([max(first, last / 10.0), last]))
    cut = f"{100.0 * (1.0 - after / before):.0f} %" if min(before, after) > 0 else f"{before - after:.3g}"
    way = f"the last tenfold increase, to {last:g}," if last >= 10.0 * first else f"going from {first:g} to {last:g}"
    return f"on this curve {way} cut it by {cut}"


def _alternatives(law: Law) -> str:
    names = [name.replace("_", " ") for name in law.verdict.alternatives]
    return f" These data cannot rule out: {', '.join(names)}{_wider_exponent(law)}." if names else ""


def _wider_exponent(law: Law) -> str:
    """What the open forms leave of β, where that is more than the verdict's own form says."""
    joined = law.exponent_interval()
    if joined is None:
        return ""
    low, high = (f"{end:.3g}" for end in joined)
    if (low, high) == tuple(f"{end:.3g}" for end in law.candidates[law.verdict.form].interval["beta"]):
        return ""
    return f"; over these forms β is between {low} and {high} (95 %)"
