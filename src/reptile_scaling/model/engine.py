"""Utterances of a data set as features of the backbone: tokenised once, computed once below the adapters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
from reptile_scaling.model.prefix_cache import PrefixCache


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
        groups = self.groups(n_tasks)
        return [result for group in groups for result in in_lanes(work, group, self.backbone.device)]

    def groups(self, n_tasks: int) -> list[range]:
        """Tasks in as few groups as `tasks_in_flight` allows, as even as can be: a small one uses a device badly."""
        n_groups = -(-n_tasks // self.tasks_in_flight)
        ends = [n_tasks * group // n_groups for group in range(n_groups + 1)] if n_groups else [0]
        return [range(start, end) for start, end in pairwise(ends)]

    def remember(self, utterances: np.ndarray) -> None:
        """Fills the prefix cache ahead of time, as far as it has room."""
        if self._cache:
            self._cache.fill(utterances)

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
