"""A support set of any number of classes and shots, ready to be adapted to, in whole or in part."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.learning.examples import Examples
from reptile_scaling.learning.inner_loop import Adapted, AfterStep, adapt_support
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import logits
from reptile_scaling.randomness import stream


@dataclass(frozen=True)
class SupportSet:
    """Labelled utterances of an engine and the initialisation that is adapted to them."""

    engine: Engine
    start: Adapters
    """One set, `[1, …]`."""
    slots: Int[np.ndarray, " U"]
    """The slot of each utterance of the engine."""
    utterances: Int[np.ndarray, " S"]
    """Those of the support set that people have labelled, class by class."""
    moments: AdamMoments | None = None
    """`[1, …]`: where the inner Adam goes on, if it does."""
    names: Int[np.ndarray, " W"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """The classes' names, where they are in the support set too; never left out."""

    @property
    def whole(self) -> Int[np.ndarray, " S"]:
        """Utterances and names."""
        return np.concatenate([self.utterances, self.names])

    def adapt(self, utterances: Int[np.ndarray, " s"], loop: InnerLoop) -> Adapted:
        """The inner loop on some of the utterances."""
        return self.adapt_side_by_side([utterances], loop)

    def adapt_side_by_side(
        self, sets: Sequence[Int[np.ndarray, " s"]], loop: InnerLoop, after_step: AfterStep | None = None
    ) -> Adapted:
        """The inner loop on several choices of the utterances at once, all with the same slots in the same order."""
        n, moments = len(sets), self.moments
        assert all(np.array_equal(self.slots[one], self.slots[sets[0]]) for one in sets), "sets differ in their slots"
        start = self.start.map(lambda tensor: tensor.expand(n, *tensor.shape[1:]))
        if moments is not None:
            moments = AdamMoments.join([moments] * n)
        # Each meets the mini-batches that it would meet alone.
        rngs = [stream(0, "test_batches") for _ in sets]
        shots = Examples(self.engine, sets, self._slots(sets[0]))
        return adapt_support(shots, TaskBatch(start, (), loop, rngs, moments=moments), after_step)

    @torch.no_grad()
    def scores(self, adapters: Adapters, utterances: Int[np.ndarray, " q"]) -> Float[np.ndarray, "q W"]:
        """Logits of some utterances under adapted parameters `[1, …]`."""
        alone: np.ndarray = self.scores_side_by_side(adapters, [utterances])[0]
        return alone

    @torch.no_grad()
    def scores_side_by_side(
        self, adapters: Adapters, sets: Sequence[Int[np.ndarray, " q"]]
    ) -> Float[np.ndarray, "T q W"]:
        """Logits of as many utterances under each of several adapted parameters `[T, …]`."""
        read = Examples(self.engine, sets, self._slots(sets[0]))
        found: np.ndarray = logits(adapters, read.features(adapters)).double().cpu().numpy()
        return found

    def _slots(self, utterances: Int[np.ndarray, " s"]) -> Int[Tensor, " s"]:
        return torch.from_numpy(self.slots[utterances]).to(self.engine.backbone.device)
