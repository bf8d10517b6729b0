"""How many inner steps, and how sure to be: both told by support utterances that are left out in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from reptile_scaling.learning.task_batch import InnerLoop
from reptile_scaling.model.heads import HEADS
from reptile_scaling.use.support_set import SupportSet

STEPS_TRIED = (1, 2, 5, 10, 20, 50)
MOST_FOLDS = 10
MOST_UTTERANCES = 200
"""A larger support set takes the trained number: each fold costs as much as the adaptation itself."""
LOG_TEMPERATURE_SD = 0.5
"""A normal prior on ln T about 0, assumed: a handful of utterances, all of them right, would send T to 0."""


@dataclass(frozen=True)
class HeldOut:
    """What utterances that were left out said."""

    steps: int
    """Inner steps of least held-out loss."""
    temperature: float
    """Divides the logits of a prediction (Guo et al. 2017, arXiv:1706.04599)."""
    loss: float
    """At those steps, nats per held-out utterance, at temperature 1."""
    n: int
    """Utterances that were left out, each once."""


def hold_out(support: SupportSet, loop: InnerLoop, steps: int | None) -> HeldOut | None:
    """Steps and temperature by leaving support utterances out; `steps` is taken where it is given.

    None where nothing can be left out, since every class has one utterance, or where the set is too large for it.
    """
    folds = leave_out(support.slots[support.utterances])
    if not folds or len(support.utterances) > MOST_UTTERANCES:
        return None
    candidates = [steps] if steps is not None else _candidates(loop)
    found = {}
    for candidate in candidates:
        scores, slots = _scores(support, folds, replace(loop, steps=candidate))
        if np.isfinite(scores).all():
            found[candidate] = (mean_loss(scores, slots), scores, slots)
    if not found:
        return None
    best = min(found, key=lambda candidate: found[candidate][0])
    loss, scores, slots = found[best]
    return HeldOut(best, fit_temperature(scores, slots), loss, len(slots))


def _candidates(loop: InnerLoop) -> list[int]:
    """The trained number among those that are tried; and none where the support set itself gives a head."""
    none = {0} if HEADS[loop.head].from_support is not None else set()
    return sorted({*STEPS_TRIED, loop.steps} | none)


def leave_out(slots: Int[np.ndarray, " S"]) -> list[Int[np.ndarray, " q"]]:
    """Places to leave out together: of each class that has two or more one utterance, in turn, so that each of them is
    left out once; of classes with more than `MOST_FOLDS` a tenth each time.
    """
    turn = np.full(len(slots), -1)
    for slot in np.unique(slots):
        places = np.flatnonzero(slots == slot)
        if len(places) > 1:
            turn[places] = np.arange(len(places)) % MOST_FOLDS
    return [np.flatnonzero(turn == fold) for fold in range(int(turn.max(initial=-1)) + 1)]


def mean_loss(scores: Float[np.ndarray, "n W"], slots: Int[np.ndarray, " n"]) -> float:
    """Cross-entropy, nats per utterance."""
    return float(-log_softmax(scores, axis=1)[np.arange(len(slots)), slots].mean())


def fit_temperature(scores: Float[np.ndarray, "n W"], slots: Int[np.ndarray, " n"]) -> float:
    """The T that makes softmax(scores / T) likeliest, under a prior that keeps few utterances from saying much."""

    def penalised(log_temperature: float) -> float:
        misfit = len(slots) * mean_loss(scores / np.exp(log_temperature), slots)
        return misfit + (log_temperature / LOG_TEMPERATURE_SD) ** 2 / 2

    return float(np.exp(minimize_scalar(penalised, bounds=(-4, 4), method="bounded").x))


def _scores(
    support: SupportSet, folds: Sequence[np.ndarray], loop: InnerLoop
) -> tuple[Float[np.ndarray, "n W"], Int[np.ndarray, " n"]]:
    """Logits of all that is left out, each under parameters adapted without it, and their slots."""
    scores, slots = [], []
    for places in folds:
        kept, left = np.delete(support.utterances, places), support.utterances[places]
        scores.append(support.scores(support.adapt(kept, loop).adapters, left))
        slots.append(support.slots[left])
    return np.concatenate(scores), np.concatenate(slots)
