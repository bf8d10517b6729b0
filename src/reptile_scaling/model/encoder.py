"""Utterances of a data set as features of the backbone: tokenised once, computed once below the adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.backbone import Backbone, PlacedBatch
from reptile_scaling.tasks import PackedTokens, pack_tokens


@dataclass(frozen=True)
class PreparedBatch:
    """Prompts of some tasks, packed, with the cached activations that enter the first adapted layer."""

    packed: PackedTokens
    placed: PlacedBatch
    entering_P: Tensor | None


class PromptEncoder:
    """Features of a data set's utterances under the adapters of many tasks."""

    def __init__(self, backbone: Backbone, texts: Sequence[str], template: str, max_length: int) -> None:
        self.backbone = backbone
        self.token_ids = tokenize_prompts(backbone.tokenizer, texts, template, max_length)
        self._cache = PrefixCache(backbone, self.token_ids) if backbone.first_adapted > 0 else None

    def prepare(self, utterances_of_task: Sequence[np.ndarray]) -> PreparedBatch:
        """Packs each task's utterances; a batch that is run several times is prepared once."""
        packed = pack_tokens(self.token_ids, utterances_of_task)
        return PreparedBatch(packed, self.backbone.place(packed), self._cache.rows(packed) if self._cache else None)

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


class PrefixCache:
    """Activations entering the first adapted layer, once per utterance, for all tasks, cells and seeds.

    Holds one `[tokens, D]` tensor that grows as utterances are first asked for, in the base's precision.
    """

    # Bounds the memory of one prefix forward; more utterances are done in several.
    TOKENS_PER_FORWARD = 8192

    def __init__(self, backbone: Backbone, token_ids: Sequence[Sequence[int]]) -> None:
        self._backbone = backbone
        self._token_ids = token_ids
        self._start_of = np.full(len(token_ids), -1, dtype=np.int64)
        self._hidden_PD = torch.empty(0, backbone.width, dtype=backbone.dtype, device=backbone.device)

    def rows(self, packed: PackedTokens) -> Float[Tensor, "P D"]:
        """The cached activations of packed prompts, in their order; missing ones are computed first."""
        self._fill(np.unique(packed.utterances))
        token_at = np.repeat(self._start_of[packed.utterances], packed.lengths) + packed.positions
        return self._hidden_PD[torch.from_numpy(token_at).to(self._backbone.device)]

    def _fill(self, utterances: np.ndarray) -> None:
        missing = utterances[self._start_of[utterances] < 0]
        if not missing.size:
            return
        lengths = np.array([len(self._token_ids[u]) for u in missing.tolist()])
        # Similar lengths together: attention pads within a forward.
        order = np.argsort(lengths, kind="stable")
        missing, lengths = missing[order], lengths[order]
        ends = np.cumsum(lengths)
        self._start_of[missing] = len(self._hidden_PD) + ends - lengths
        groups = np.split(missing, np.flatnonzero(np.diff(ends // self.TOKENS_PER_FORWARD)) + 1)
        packed = [pack_tokens(self._token_ids, [group]) for group in groups if group.size]
        parts = [self._backbone.entering_activations(self._backbone.place(part)) for part in packed]
        self._hidden_PD = torch.cat([self._hidden_PD, *parts])
