"""Utterances of a data set as features of the backbone: tokenised once, computed once below the adapters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.backbone import Backbone, Batch
from reptile_scaling.model.label_words import LabelVectors
from reptile_scaling.model.lanes import Result, in_lanes
from reptile_scaling.model.packing import PackedTokens, pack_tokens
from reptile_scaling.model.prefix_cache import PrefixCache, Progress


@dataclass(frozen=True)
class PreparedBatch:
    """Prompts of some tasks, packed, with the cached activations that enter the first adapted layer."""

    packed: PackedTokens
    placed: Batch
    entering_P: Tensor | None


class Engine:
    """Features of a data set's utterances under the adapters of many tasks."""

    def __init__(self, backbone: Backbone, token_ids: list[list[int]], cache: PrefixCache | None = None) -> None:
        """`cache` is the prefix cache of these prompts, or None to compute all layers each time."""
        self.backbone = backbone
        self.token_ids = token_ids
        self.label_vectors: LabelVectors | None = None
        """The words of each task's classes, for heads that start from them."""
        self.tasks_in_flight = 32
        """Tasks that are adapted in one forward; bounds memory, never changes a result."""
        self._cache = cache

    @property
    def has_cache(self) -> bool:
        """Whether activations below the first adapted layer are shared."""
        return self._cache is not None

    def prepare(
        self, utterances_of_task: Sequence[np.ndarray], owner_of_task: Sequence[int] | None = None
    ) -> PreparedBatch:
        """Packs each task's utterances; a batch that is run several times is prepared once."""
        packed = pack_tokens(self.token_ids, utterances_of_task, owner_of_task)
        entering_P = self._cache.rows(packed) if self._cache else None
        return PreparedBatch(packed, self.backbone.place(packed), entering_P)

    def in_groups(self, work: Callable[[slice], Result], n_tasks: int) -> list[Result]:
        """`work` on `tasks_in_flight` tasks at a time, these side by side on a CPU; results in the order of tasks."""
        results = []
        for start in range(0, n_tasks, self.tasks_in_flight):
            group = range(start, min(start + self.tasks_in_flight, n_tasks))
            results += in_lanes(work, group, self.backbone.device)
        return results

    def remember(self, utterances: np.ndarray, progress: Progress | None = None) -> None:
        """Fills the prefix cache ahead of time, as far as it has room; `progress` hears (tokens done, tokens to do)."""
        if self._cache:
            self._cache.fill(utterances, progress)

    def features(
        self,
        batch: PreparedBatch,
        adapters: Adapters | None,
        dropout: tuple[float, list[torch.Generator]] | None = None,
    ) -> Float[Tensor, "S D"]:
        """Last-token features of the batch, in its order; `adapters` has one set per task, None is the frozen model."""
        return self.backbone.features(batch.placed, adapters, entering_P=batch.entering_P, dropout=dropout)


def tokenize_prompts(tokenizer: Any, texts: Sequence[str], template: str, max_length: int) -> list[list[int]]:
    """Token ids of `template` filled with each text; a text that is too long loses its end, the template nothing."""
    before, after = template.split("{text}")
    tail: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    heads: list[list[int]] = tokenizer([before + text for text in texts])["input_ids"] if texts else []
    return [head[: max_length - len(tail)] + tail for head in heads]
