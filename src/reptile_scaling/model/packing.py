"""Prompts of many utterances laid end to end, without padding. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class PackedTokens:
    """Prompts of many utterances laid end to end, tasks one after another, without padding.

    `token_ids[P]` and `positions[P]`; prompt s is `starts[s] : starts[s] + lengths[s]`, its features are read at
    its last token. Task t owns the prompts `prompt_offsets[t] : prompt_offsets[t + 1]`.
    """

    token_ids: Int[np.ndarray, "P"]
    positions: Int[np.ndarray, "P"]
    starts: Int[np.ndarray, "S"]
    lengths: Int[np.ndarray, "S"]
    utterances: Int[np.ndarray, "S"]
    prompt_offsets: Int[np.ndarray, "T_plus_1"]
    owner_of_task: Int[np.ndarray, "T"]
    """The cell a task belongs to, rising. Tasks of different cells share no product but the frozen ones, so a cell
    whose numbers turn to NaN leaves the others untouched."""

    @property
    def prompt_of_tokens(self) -> Int[np.ndarray, "P"]:
        """The prompt each token belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def token_offsets(self) -> list[int]:
        """Task t owns the tokens `token_offsets[t] : token_offsets[t + 1]`."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return [int(ends[offset]) for offset in self.prompt_offsets]


def pack_tokens(
    token_ids: Sequence[Sequence[int]],
    utterances_of_task: Sequence[Int[np.ndarray, "..."]],
    owner_of_task: Sequence[int] | None = None,
) -> PackedTokens:
    """Lays the prompts of each task's utterances end to end; `token_ids[u]` is the prompt of utterance u.

    Without `owner_of_task` all tasks belong to one cell.
    """
    utterances = np.concatenate([np.ravel(u) for u in utterances_of_task])
    prompts = [token_ids[u] for u in utterances.tolist()]
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    return PackedTokens(
        token_ids=np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in prompts]),
        positions=np.arange(lengths.sum()) - np.repeat(starts, lengths),
        starts=starts,
        lengths=lengths,
        utterances=utterances,
        prompt_offsets=np.cumsum([0, *(np.size(u) for u in utterances_of_task)]),
        owner_of_task=np.array(owner_of_task or [0] * len(utterances_of_task)),
    )
