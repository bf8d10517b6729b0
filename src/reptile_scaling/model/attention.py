"""Attention over prompts laid end to end: each prompt sees itself alone, causally or as a whole.

Registered with transformers' AttentionInterface, so the Hub's modelling code stays in use. The linear layers never
see padding; only here several prompts of one cell share a block, as wide as the longest of them, under a
block-diagonal mask. Blocks keep the products large and the padding small: prompts of one batch differ in length by a
factor of ten.

Suffixes: P packed tokens · S prompts · N blocks · B places of a block · M queries of a block · K key/value heads ·
G query heads per key/value head · E head width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AttentionInterface

from reptile_scaling.errors import InputError
from reptile_scaling.model.packing import PackedTokens

RAGGED_ATTENTION = "ragged"
READS_ANSWERS_ONLY = "reads_answers_only"
"""Attribute set on the attention module of the last layer: only the last token of each prompt asks there."""
KEYS_APART = "keys_apart"
"""Attribute set on an attention module that is called twice: the context that takes the keys and values of all rows at
the first call, and has them at the second, which asks for answer rows alone."""
NARROWEST_BLOCK = 32


@dataclass(frozen=True)
class Blocks:
    """Where rows stand in padded blocks, and back; the rows are tokens or prompts."""

    row_at_NM: Tensor
    """The row at each place; an empty place shows row 0."""
    place_of_rows: Tensor
    """Flattened place of each row."""
    hidden_NMB: Tensor
    """Added to the scores: −∞ where the query at a place may not see the token at a place, else 0."""

    def fill(self, rows: Tensor) -> Tensor:
        """`[rows, …] → [N, M, …]`."""
        filled: Tensor = _Fill.apply(rows, self)
        return filled

    def empty(self, blocks: Tensor) -> Tensor:
        """`[N, M, …] → [rows, …]`."""
        emptied: Tensor = _Empty.apply(blocks, self)
        return emptied


@dataclass(frozen=True)
class RaggedLayout:
    """How the prompts of one batch share blocks: every token as key and query, or answers alone as queries."""

    tokens: Blocks
    answers: Blocks
    answer_S: Tensor
    """Packed index of each prompt's last token."""
    longest: int
    """Tokens of the longest prompt, with its context."""
    keys: Blocks | None = None
    """Where the keys of each block stand, if not where its queries do."""


def ragged_layout(
    packed: PackedTokens, device: torch.device, dtype: torch.dtype, is_causal: bool = True
) -> RaggedLayout:
    """The layout of one batch of packed prompts; a token sees those before it, or all of its prompt."""
    width = max(int(packed.lengths.max()), NARROWEST_BLOCK)
    owner_S = np.repeat(packed.owner_of_task, np.diff(packed.prompt_offsets))
    block_S, rank_S, column_S = _share_blocks(packed.lengths, owner_S, width)
    n_blocks, n_ranks = int(block_S.max()) + 1, int(rank_S.max()) + 1
    prompt_P = packed.prompt_of_tokens
    place_P = block_S[prompt_P] * width + column_S[prompt_P] + packed.positions
    # An empty place is a prompt of its own: it sees itself, so that no softmax is over nothing.
    prompt_at = -1 - np.arange(n_blocks * width)
    prompt_at[place_P] = prompt_P
    prompt_NB = prompt_at.reshape(n_blocks, width)
    tokens_see = prompt_NB[:, :, None] == prompt_NB[:, None, :]
    if is_causal:
        tokens_see &= np.tri(width, dtype=bool)
    # An empty rank repeats the first prompt of its block.
    prompt_NM = np.zeros((n_blocks, n_ranks), dtype=np.int64)
    prompt_NM[:] = prompt_NB[:, :1]
    prompt_NM[block_S, rank_S] = np.arange(len(block_S))
    answers_see = prompt_NM[:, :, None] == prompt_NB[:, None, :]

    def blocks(place_of_rows: Int[np.ndarray, "rows"], sees: np.ndarray) -> Blocks:
        row_at = np.zeros(sees.shape[0] * sees.shape[1], dtype=np.int64)
        row_at[place_of_rows] = np.arange(len(place_of_rows))
        hidden = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~torch.from_numpy(sees), -torch.inf)
        return Blocks(
            row_at_NM=torch.from_numpy(row_at.reshape(sees.shape[:2])).to(device),
            place_of_rows=torch.from_numpy(place_of_rows).to(device),
            hidden_NMB=hidden.to(device),
        )

    return RaggedLayout(
        tokens=blocks(place_P, tokens_see),
        answers=blocks(block_S * n_ranks + rank_S, answers_see),
        answer_S=torch.from_numpy(packed.starts + packed.lengths - 1).to(device),
        longest=int(packed.lengths.max()),
    )


def _share_blocks(
    lengths: Int[np.ndarray, "S"], owner_S: Int[np.ndarray, "S"], width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Block, rank in it and first column of each prompt: longest first, each into the fullest block with room.

    A mask cannot stop NaN (0 · NaN is NaN), so prompts of different owners share no block.
    """
    n_in_block: list[int] = []
    block_S, rank_S, column_S = (np.zeros(len(lengths), dtype=np.int64) for _ in range(3))
    for owner in np.unique(owner_S):
        members = np.flatnonzero(owner_S == owner)
        with_room: list[list[int]] = [[] for _ in range(width + 1)]
        """Blocks by the places they have left."""
        for prompt in members[np.argsort(-lengths[members], kind="stable")].tolist():
            length = int(lengths[prompt])
            room = next((r for r in range(length, width + 1) if with_room[r]), None)
            if room is None:
                room = width
                with_room[room].append(len(n_in_block))
                n_in_block.append(0)
            block = with_room[room].pop()
            with_room[room - length].append(block)
            block_S[prompt], rank_S[prompt], column_S[prompt] = block, n_in_block[block], width - room
            n_in_block[block] += 1
    return block_S, rank_S, column_S


class _Fill(torch.autograd.Function):
    """Rows into blocks. An empty place passes no gradient: no row that counts looks at it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, blocks: Blocks) -> Tensor:
        ctx.blocks = blocks
        return rows[blocks.row_at_NM]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0].flatten(0, 1)[ctx.blocks.place_of_rows], None


class _Empty(torch.autograd.Function):
    """Blocks back into rows."""

    @staticmethod
    def forward(ctx: Any, x_NM: Tensor, blocks: Blocks) -> Tensor:
        ctx.blocks, ctx.shape = blocks, x_NM.shape
        return x_NM.flatten(0, 1)[blocks.place_of_rows]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        padded = grad[0].new_zeros(ctx.shape)
        padded.flatten(0, 1)[ctx.blocks.place_of_rows] = grad[0]
        return padded, None


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: RaggedLayout,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention `[1, H, P, E] → [1, P, H, E]` within each prompt; signature of AttentionInterface.

    `s_aux [H]` are scores of a sink that takes attention and gives nothing (gpt-oss). InputError for a prompt that a
    layer's sliding window would cut.
    """
    assert attention_mask is None, "ragged attention makes its own mask"
    if sliding_window is not None and ragged.longest > sliding_window:
        raise InputError(
            f"a prompt has {ragged.longest} tokens, but some layers of this model attend within {sliding_window}: "
            f"lower max_length to {sliding_window}"
        )
    apart: Any = getattr(module, KEYS_APART, None)
    if apart is not None and not apart.asks:
        apart.keys = key, value
        return query.transpose(1, 2), None
    if apart is not None:
        key, value = apart.keys
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    keys = ragged.tokens if ragged.keys is None else ragged.keys
    # The fused kernel makes no matrix of scores, which would not fit the caches where keys are many.
    is_plain = softcap is None and s_aux is None
    attend = _attend_fused if ragged.keys is not None and is_plain else _attend
    key_NBKE, value_NBKE = (keys.fill(x[0].transpose(0, 1)) for x in (key, value))
    query_PHE = query[0].transpose(0, 1)
    if not getattr(module, READS_ANSWERS_ONLY, False):
        mixed_NMHE = attend(ragged.tokens.fill(query_PHE), key_NBKE, value_NBKE, ragged.tokens, scale, softcap, s_aux)
        return ragged.tokens.empty(mixed_NMHE)[None], None
    asking_NMHE = ragged.answers.fill(query_PHE if apart is not None else query_PHE[ragged.answer_S])
    mixed_NMHE = attend(asking_NMHE, key_NBKE, value_NBKE, ragged.answers, scale, softcap, s_aux)
    answer_SHE = ragged.answers.empty(mixed_NMHE)
    if apart is not None:
        return answer_SHE[None], None
    return answer_SHE.new_zeros(query_PHE.shape).index_copy(0, ragged.answer_S, answer_SHE)[None], None


def _attend(
    query_NMHE: Tensor,
    key_NBKE: Tensor,
    value_NBKE: Tensor,
    blocks: Blocks,
    scale: float,
    softcap: float | None,
    sink_H: Tensor | None,
) -> Tensor:
    """Softmax attention `[N, M, H, E]`; the query heads that share a key head are rows of one product."""
    (n, m, _, e), k = query_NMHE.shape, key_NBKE.shape[2]
    rows = query_NMHE.unflatten(2, (k, -1)).permute(0, 2, 3, 1, 4).reshape(n * k, -1, e)
    keys = key_NBKE.transpose(1, 2).flatten(0, 1)
    values = value_NBKE.transpose(1, 2).flatten(0, 1)
    scores = (rows @ keys.transpose(1, 2) * scale).view(n, k, -1, m, keys.shape[1])
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + blocks.hidden_NMB[:, None, None]
    if sink_H is None:
        weights = scores.softmax(-1)
    else:
        sinks = sink_H.view(1, k, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    mixed_NKGME: Tensor = (weights.view(n * k, -1, keys.shape[1]) @ values).view(n, k, -1, m, e)
    return mixed_NKGME.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _attend_fused(
    query_NMHE: Tensor,
    key_NBKE: Tensor,
    value_NBKE: Tensor,
    blocks: Blocks,
    scale: float,
    softcap: float | None,
    sink_H: Tensor | None,
) -> Tensor:
    """As `_attend`, without softcap and sinks; the query heads that share a key head are asked one after another."""
    assert softcap is None and sink_H is None, (softcap, sink_H)
    n_shared = query_NMHE.shape[2] // key_NBKE.shape[2]
    query_NHME, key_NKBE, value_NKBE = (x.transpose(1, 2) for x in (query_NMHE, key_NBKE, value_NBKE))
    mixed = [
        nn.functional.scaled_dot_product_attention(
            query_NHME[:, g::n_shared], key_NKBE, value_NKBE, blocks.hidden_NMB[:, None], scale=scale
        )
        for g in range(n_shared)
    ]
    mixed_NHME = torch.stack(mixed, dim=2).flatten(1, 2)
    return mixed_NHME.transpose(1, 2)


AttentionInterface.register(RAGGED_ATTENTION, ragged_attention)
