"""Attention over prompts laid end to end: each prompt sees itself alone.

Registered with transformers' AttentionInterface, so the Hub's modelling code stays in use. The linear layers never
see padding; only here are prompts padded, since attention is a small part of the work at their length.

Suffixes: P packed tokens · S prompts · L longest prompt · H heads · E head width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from reptile_scaling.tasks import PackedTokens

RAGGED_ATTENTION = "ragged"
READS_ANSWERS_ONLY = "reads_answers_only"
"""Attribute set on the attention module of the last layer: only the last token of each prompt asks there."""


@dataclass(frozen=True)
class RaggedLayout:
    """Where packed tokens stand in a padded `[S, L]` block, and back."""

    token_at_SL: Tensor
    """Packed index at each padded place; a place past the prompt's end repeats its last token."""
    place_of_P: Tensor
    """Flattened padded place of each packed token."""
    answer_S: Tensor
    """Packed index of each prompt's last token."""
    has_token_SL: Tensor
    """Whether a padded place holds a token."""


def ragged_layout(packed: PackedTokens, device: torch.device) -> RaggedLayout:
    """The layout of one batch of packed prompts."""
    length = int(packed.lengths.max())
    column_L = np.arange(length)
    token_at = packed.starts[:, None] + np.minimum(column_L, packed.lengths[:, None] - 1)
    has_token = column_L < packed.lengths[:, None]
    return RaggedLayout(
        token_at_SL=torch.from_numpy(token_at).to(device),
        place_of_P=torch.from_numpy(np.flatnonzero(has_token)).to(device),
        answer_S=torch.from_numpy(packed.starts + packed.lengths - 1).to(device),
        has_token_SL=torch.from_numpy(has_token).to(device),
    )


class _Pad(torch.autograd.Function):
    """`[P, …] → [S, L, …]`. Padded places get no gradient: causal rows never look at them, their own are dropped."""

    @staticmethod
    def forward(ctx: Any, x_P: Tensor, layout: RaggedLayout) -> Tensor:
        ctx.layout = layout
        return x_P[layout.token_at_SL]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0].flatten(0, 1)[ctx.layout.place_of_P], None


class _Unpad(torch.autograd.Function):
    """`[S, L, …] → [P, …]`."""

    @staticmethod
    def forward(ctx: Any, x_SL: Tensor, layout: RaggedLayout) -> Tensor:
        ctx.layout, ctx.shape = layout, x_SL.shape
        return x_SL.flatten(0, 1)[layout.place_of_P]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        padded = grad[0].new_zeros(ctx.shape)
        padded.flatten(0, 1)[ctx.layout.place_of_P] = grad[0]
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
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention `[1, H, P, E] → [1, P, H, E]` within each prompt; signature of AttentionInterface.

    Prompts are assumed shorter than any sliding window, which `max_length` ensures for every released model.
    """
    assert attention_mask is None, "ragged attention makes its own mask"
    key_SHLE, value_SHLE = (_Pad.apply(x[0].transpose(0, 1), ragged).transpose(1, 2) for x in (key, value))
    if getattr(module, READS_ANSWERS_ONLY, False):
        query_SH1E = query[0, :, ragged.answer_S].transpose(0, 1)[:, :, None]
        mask_S11L = ragged.has_token_SL[:, None, None]
        answer_SHE = _attend(query_SH1E, key_SHLE, value_SHLE, mask_S11L, scaling, softcap)[:, :, 0]
        n_tokens = query.shape[2]
        return answer_SHE.new_zeros(n_tokens, *answer_SHE.shape[1:]).index_copy(0, ragged.answer_S, answer_SHE)[
            None
        ], None
    query_SHLE = _Pad.apply(query[0].transpose(0, 1), ragged).transpose(1, 2)
    mixed_SHLE = _attend(query_SHLE, key_SHLE, value_SHLE, None, scaling, softcap)
    return _Unpad.apply(mixed_SHLE.transpose(1, 2), ragged)[None], None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softcap: float | None
) -> Tensor:
    """Softmax attention, causal where no mask is given; grouped key/value heads are repeated."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, scale=scaling)
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, -torch.inf)
    return scores.float().softmax(-1).to(query.dtype) @ value


AttentionInterface.register(RAGGED_ATTENTION, ragged_attention)
