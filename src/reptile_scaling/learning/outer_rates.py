"""How learned inner rates move: an Adam of their own, whatever moves θ."""

from collections.abc import Mapping

from torch import Tensor

from reptile_scaling.learning.outer_optimizers import OUTER_OPTIMIZERS, Moments
from reptile_scaling.model.adapters import LOG_RATE, Adapters

OUTER = OUTER_OPTIMIZERS["adam"]
OUTER_RATE = 0.03
"""Adam's step on log-rates: a rate changes by some 3 % a meta-step, so that a hundred can make it twentyfold."""
RATE_MOMENTS = "rates_{name}"
"""How what Adam knows of them is called beside the moments of θ's own optimiser."""


def first_rate_moments(rates: Mapping[str, Tensor]) -> Moments:
    """Before the first meta-step; nothing where no rates are learned."""
    if not rates:
        return {}
    return {RATE_MOMENTS.format(name=name): own for name, own in OUTER.first_moments(Adapters(dict(rates))).items()}


def move_rates(
    rates: Adapters, gradients: Adapters, moments: Moments, steps_before: int
) -> tuple[dict[str, Tensor], Moments]:
    """Log-rates `[K]` moved against their tasks' gradients `[T, K]`, under the names they have in θ."""
    prefix = RATE_MOMENTS.format(name="")
    own = {name.removeprefix(prefix): moment for name, moment in moments.items() if name.startswith(prefix)}
    named, slopes = (Adapters({n + LOG_RATE: x for n, x in one.tensors.items()}) for one in (rates, gradients))
    moved, after = OUTER.step(named, slopes, own, OUTER_RATE, steps_before)
    return moved.tensors, {RATE_MOMENTS.format(name=name): moment for name, moment in after.items()}
