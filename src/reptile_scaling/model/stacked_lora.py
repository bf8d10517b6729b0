"""LoRA of many tasks over one frozen linear layer (Hu et al. 2021, arXiv:2106.09685), exact.

The frozen layer runs once over all tokens; task t's low-rank path `scale · B_t A_t x` is added to its own rows.
The sum of per-task losses therefore gives every task its own gradient.

Suffixes: T tasks · P packed tokens · I inputs · O outputs · R rank.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters


@dataclass
class ForwardContext:
    """What the forward in progress works on; one object shared by the wrapped layers of a model."""

    adapters: Adapters | None = None
    token_offsets: list[int] = field(default_factory=list)
    """Task t owns rows `token_offsets[t] : token_offsets[t + 1]`."""
    prompt_offsets: list[int] = field(default_factory=list)
    answer_rows: Tensor | None = None
    """Row of each prompt's last token."""
    dropout: tuple[float, list[torch.Generator]] | None = None
    """LoRA dropout rate and a random stream per task; None outside meta-training."""
    injected: Tensor | None = None
    """Cached activations that enter the first adapted layer."""
    passing: Tensor | None = None
    """What the last bypassed layer passed on."""

    @contextmanager
    def on_answers(self) -> Iterator[None]:
        """Layers run on one row per prompt inside this block."""
        outside = self.token_offsets
        self.token_offsets = self.prompt_offsets
        try:
            yield
        finally:
            self.token_offsets = outside


class StackedLora(nn.Module):
    """A frozen linear layer plus the low-rank path of the task each row belongs to; plain without adapters."""

    def __init__(self, base: nn.Module, site: str, scale: float, context: ForwardContext) -> None:
        super().__init__()
        self.base = base
        self.site = site
        self.scale = scale
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        """`[…, P, I] → […, P, O]` with a leading batch dimension of one or none."""
        y: Tensor = self.base(x)
        if self.context.adapters is None:
            return y
        stacks = self.context.adapters.tensors
        x_PI = x.reshape(-1, x.shape[-1])
        if self.context.dropout is not None:
            x_PI = _dropped(x_PI, self.context.token_offsets, *self.context.dropout)
        A_TRI, B_TOR = stacks[self.site + LORA_A], stacks[self.site + LORA_B]
        added: Tensor = _AddLowRank.apply(y, x_PI, A_TRI, B_TOR, self.context.token_offsets, self.scale)
        return added


class _AddLowRank(torch.autograd.Function):
    """`y + scale · x Aᵀ Bᵀ` in place, each task on its own rows: no padding and no copy of x or y."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x_PI: Tensor, A_TRI: Tensor, B_TOR: Tensor, offsets: list[int], scale: float
    ) -> Tensor:
        assert offsets[-1] == len(x_PI), (offsets, x_PI.shape)
        y_PO = y.view(-1, y.shape[-1])
        A, B = A_TRI.to(x_PI.dtype), B_TOR.to(x_PI.dtype)
        z_PR = x_PI.new_empty(len(x_PI), A.shape[1])
        for t, (start, stop) in enumerate(pairwise(offsets)):
            torch.mm(x_PI[start:stop], A[t].T, out=z_PR[start:stop])
            y_PO[start:stop].addmm_(z_PR[start:stop], B[t].T, alpha=scale)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x_PI, z_PR, A, B)
        ctx.offsets, ctx.scale = list(offsets), scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None, None]:
        g_PO = grad[0].reshape(-1, grad[0].shape[-1])
        x_PI, z_PR, A, B = ctx.saved_tensors
        gx_PI = torch.empty_like(x_PI) if ctx.needs_input_grad[1] else None
        gA, gB = torch.empty_like(A), torch.empty_like(B)
        for t, (start, stop) in enumerate(pairwise(ctx.offsets)):
            g = g_PO[start:stop]
            gz = g @ B[t] * ctx.scale
            torch.mm(g.T, z_PR[start:stop], out=gB[t])
            torch.mm(gz.T, x_PI[start:stop], out=gA[t])
            if gx_PI is not None:
                torch.mm(gz, A[t], out=gx_PI[start:stop])
        return grad[0], gx_PI, gA.float(), gB.float() * ctx.scale, None, None


def _dropped(x_PI: Tensor, offsets: list[int], rate: float, streams: list[torch.Generator]) -> Tensor:
    """Inverted dropout whose mask comes from each task's own stream, so a cohort changes nothing."""
    keep = torch.empty_like(x_PI)
    for stream, (start, stop) in zip(streams, pairwise(offsets), strict=True):
        keep[start:stop].bernoulli_(1 - rate, generator=stream)
    return x_PI * keep / (1 - rate)
