"""How many inner steps, and how sure to be: both told by support utterances that are left out in turn."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from reptile_scaling.learning.task_batch import InnerLoop
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.heads import HEADS
from reptile_scaling.use.support_set import SupportSet

STEPS_TRIED = (1, 2, 5, 10, 20, 50)
MOST_FOLDS = 10
MOST_UTTERANCES = 200
"""A larger support set takes the trained number: each fold costs as much as the adaptation itself."""
PATIENCE = 2
"""Numbers of steps in turn that may fail to be the best so far; after that no more are tried."""
TRIED_AT_LEAST = 10
"""Steps. Adam's first ones may raise a loss that ten of them halve: 0.59, 0.69, 0.78, 0.30 and 0.20 nats after 0, 1, 2,
5 and 10 in results/banking77_smollm2_short; a third of the curves in results/ would end too early without this."""
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
    groups = _alike(support, folds)
    readings = [_read_along(support, group, loop, candidates) for group in groups]
    slots = np.concatenate([support.slots[fold.left] for group in groups for fold in group])
    found = {}
    for candidate in candidates:
        if all(candidate in reading for reading in readings):
            scores = np.concatenate([reading[candidate] for reading in readings])
            found[candidate] = (mean_loss(scores, slots), scores)
    if not found:
        return None
    best = min(found, key=lambda candidate: found[candidate][0])
    loss, scores = found[best]
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


def has_risen(steps: int, losses: Sequence[float]) -> bool:
    """Whether more than `steps`, the last number that `losses` were read at, need not be tried."""
    return steps >= TRIED_AT_LEAST and len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE


def mean_loss(scores: Float[np.ndarray, "n W"], slots: Int[np.ndarray, " n"]) -> float:
    """Cross-entropy, nats per utterance."""
    return float(-log_softmax(scores, axis=1)[np.arange(len(slots)), slots].mean())


def fit_temperature(scores: Float[np.ndarray, "n W"], slots: Int[np.ndarray, " n"]) -> float:
    """The T that makes softmax(scores / T) likeliest, under a prior that keeps few utterances from saying much."""

    def penalised(log_temperature: float) -> float:
        misfit = len(slots) * mean_loss(scores / np.exp(log_temperature), slots)
        return misfit + (log_temperature / LOG_TEMPERATURE_SD) ** 2 / 2

    return float(np.exp(minimize_scalar(penalised, bounds=(-4, 4), method="bounded").x))


@dataclass(frozen=True)
class _Fold:
    """Utterances to adapt to, and those that are left out."""

    kept: Int[np.ndarray, " s"]
    left: Int[np.ndarray, " q"]


def _alike(support: SupportSet, folds: Sequence[np.ndarray]) -> list[list[_Fold]]:
    """Groups of folds with the same slots in the same order, which are adapted to side by side; a group keeps no more
    utterances in flight than the largest support set would."""
    groups: dict[tuple[bytes, bytes, int], list[_Fold]] = {}
    met: Counter[tuple[bytes, bytes]] = Counter()
    for places in folds:
        kept = np.concatenate([np.delete(support.utterances, places), support.names])
        fold = _Fold(kept, support.utterances[places])
        slots = support.slots[fold.kept].tobytes(), support.slots[fold.left].tobytes()
        side_by_side = max(1, MOST_UTTERANCES // len(fold.kept))
        groups.setdefault((*slots, met[slots] // side_by_side), []).append(fold)
        met[slots] += 1
    return list(groups.values())


def _read_along(
    support: SupportSet, group: Sequence[_Fold], loop: InnerLoop, candidates: Sequence[int]
) -> dict[int, Float[np.ndarray, "n W"]]:
    """Logits of all that a group leaves out, each under parameters adapted without it, after each number of steps up to
    where they diverge or their loss has risen for good."""
    left = [fold.left for fold in group]
    slots = support.slots[np.concatenate(left)]
    found: dict[int, Float[np.ndarray, "n W"]] = {}
    losses: list[float] = []

    def after_step(taken: int, phi: Adapters) -> bool:
        if taken not in candidates:
            return False
        scores = np.concatenate(list(support.scores_side_by_side(phi, left)))
        if not np.isfinite(scores).all():
            return True
        found[taken] = scores
        losses.append(mean_loss(scores, slots))
        return has_risen(taken, losses)

    support.adapt_side_by_side([fold.kept for fold in group], replace(loop, steps=candidates[-1]), after_step)
    return found
