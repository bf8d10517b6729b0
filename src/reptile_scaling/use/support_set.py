"""A support set of any number of classes and shots, ready to be adapted to, in whole or in part."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.learning.examples import Examples
from reptile_scaling.learning.inner_loop import Adapted, adapt_support
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
    """Those of the support set, class by class."""
    moments: AdamMoments | None = None
    """`[1, …]`: where the inner Adam goes on, if it does."""

    def adapt(self, utterances: Int[np.ndarray, " s"], loop: InnerLoop) -> Adapted:
        """The inner loop on some of the utterances."""
        shots = Examples(self.engine, [utterances], self._slots(utterances))
        batch = TaskBatch(self.start, (), loop, [stream(0, "test_batches")], moments=self.moments)
        return adapt_support(shots, batch)

    @torch.no_grad()
    def scores(self, adapters: Adapters, utterances: Int[np.ndarray, " q"]) -> Float[np.ndarray, "q W"]:
        """Logits of some utterances under adapted parameters `[1, …]`."""
        read = Examples(self.engine, [utterances], self._slots(utterances))
        found: np.ndarray = logits(adapters, read.features(adapters))[0].double().cpu().numpy()
        return found

    def _slots(self, utterances: Int[np.ndarray, " s"]) -> Int[Tensor, " s"]:
        return torch.from_numpy(self.slots[utterances]).to(self.engine.backbone.device)
