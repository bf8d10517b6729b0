"""Features of utterances that many tasks share, under one set of adapters: each is computed once."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.interruption import stop_if_requested
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine

UTTERANCES_PER_FORWARD = 256


@dataclass(frozen=True)
class SharedFeatures:
    """Features `[U, D]` of distinct utterances, and where each utterance stands."""

    vectors_UD: Float[Tensor, "U D"]
    row_of: dict[int, int]

    def of(self, utterances: np.ndarray) -> Float[Tensor, "S D"]:
        """Of some utterances, in their order; what has several dimensions is read row by row."""
        return self.vectors_UD[[self.row_of[u] for u in utterances.ravel().tolist()]]


@torch.no_grad()
def shared_features(engine: Engine, sets: Iterable[np.ndarray], theta: Adapters | None = None) -> SharedFeatures:
    """The features of all utterances of some sets, the pretrained model's or those under an initialisation `[…]`."""
    used = np.unique(np.concatenate([own.ravel() for own in sets]))
    parts = np.array_split(used, -(-len(used) // UTTERANCES_PER_FORWARD))
    adapters = theta.repeated(1) if theta is not None else None
    engine.remember(used)

    def compute(share: slice) -> Tensor:
        stop_if_requested()
        return torch.cat([engine.features(engine.prepare([part]), adapters) for part in parts[share]])

    vectors = torch.cat(engine.in_groups(compute, len(parts)))
    return SharedFeatures(vectors, {int(utterance): row for row, utterance in enumerate(used)})
