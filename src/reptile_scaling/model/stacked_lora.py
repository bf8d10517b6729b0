"""LoRA of many tasks over one frozen linear layer (Hu et al. 2021, arXiv:2106.09685), exact.

The frozen layer runs once over all tokens; task t's low-rank path `scale · B_t A_t x` is added to its own rows.
The sum of per-task losses therefore gives every task its own gradient.

Suffixes: T tasks · P packed tokens · I inputs · O outputs · R rank.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters

RANKS_PER_PRODUCT = 32
"""Tasks share a low-rank product up to this many ranks in all; at rank 8 four of them."""


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that share a low-rank product."""

    tasks: slice
    rows: slice
    owns: Tensor | None
    """`[rows, ranks of all tasks]`: 1 where the rank is of the row's own task, else 0. None for a task alone."""


@dataclass(frozen=True)
class TaskRows:
    """Which rows of an activation belong to which task: task t owns `offsets[t] : offsets[t + 1]`."""

    offsets: list[int]
    groups: list[TaskGroup]


def task_rows(offsets: Sequence[int], rank: int, device: torch.device, dtype: torch.dtype) -> TaskRows:
    """Groups of neighbouring tasks for the low-rank products of this rank."""
    n_tasks, size = len(offsets) - 1, max(1, RANKS_PER_PRODUCT // rank)
    groups = []
    for first in range(0, n_tasks, size):
        last = min(first + size, n_tasks)
        owns = None
        if last - first > 1:
            own_task = torch.block_diag(*(torch.ones(b - a, rank) for a, b in pairwise(offsets[first : last + 1])))
            owns = own_task.to(device, dtype)
        groups.append(TaskGroup(slice(first, last), slice(offsets[first], offsets[last]), owns))
    return TaskRows(list(offsets), groups)


@dataclass
class ForwardContext:
    """What the forward in progress works on; one object shared by the wrapped layers of a model."""

    adapters: Adapters | None = None
    rows: TaskRows = field(default_factory=lambda: TaskRows([0], []))
    """The tasks' tokens, or inside `on_answers` the tasks' prompts."""
    prompts: TaskRows = field(default_factory=lambda: TaskRows([0], []))
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
        outside = self.rows
        self.rows = self.prompts
        try:
            yield
        finally:
            self.rows = outside


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
            x_PI = _dropped(x_PI, self.context.rows.offsets, *self.context.dropout)
        A_TRI, B_TOR = stacks[self.site + LORA_A], stacks[self.site + LORA_B]
        added: Tensor = _AddLowRank.apply(y, x_PI, A_TRI, B_TOR, self.context.rows.groups, self.scale)
        return added


class _AddLowRank(torch.autograd.Function):
    """`y + scale · x Aᵀ Bᵀ` in place, each task on its own rows: no padding and no copy of x or y.

    A few tasks share each product: `z = x [A_1 … A_G]ᵀ` over the rows of all G, and what a row has of other tasks'
    ranks is set to zero. That wastes (G − 1)/G of a few percent and replaces G thin products by one of a shape that
    processors multiply at a good rate.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x_PI: Tensor, A_TRI: Tensor, B_TOR: Tensor, groups: Sequence[TaskGroup], scale: float
    ) -> Tensor:
        y_PO = y.view(-1, y.shape[-1])
        A_TRI, B_TRO = A_TRI.to(x_PI.dtype), (B_TOR * scale).to(x_PI.dtype).transpose(1, 2).contiguous()
        z = []
        for group in groups:
            A, B = A_TRI[group.tasks].flatten(0, 1), B_TRO[group.tasks].flatten(0, 1)
            z.append(_own_ranks(x_PI[group.rows] @ A.T, group))
            y_PO[group.rows].addmm_(z[-1], B)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x_PI, A_TRI, B_TRO, *z)
        ctx.groups, ctx.scale = groups, scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None, None]:
        g_PO = grad[0].reshape(-1, grad[0].shape[-1])
        x_PI, A_TRI, B_TRO, *zs = ctx.saved_tensors
        gx_PI = torch.empty_like(x_PI) if ctx.needs_input_grad[1] else None
        gA_TRI, gB_TRO = torch.empty_like(A_TRI), torch.empty_like(B_TRO)
        for group, z in zip(ctx.groups, zs, strict=True):
            g, x = g_PO[group.rows], x_PI[group.rows]
            A, B = A_TRI[group.tasks].flatten(0, 1), B_TRO[group.tasks].flatten(0, 1)
            gz = _own_ranks(g @ B.T, group)
            torch.mm(z.T, g, out=gB_TRO[group.tasks].flatten(0, 1))
            torch.mm(gz.T, x, out=gA_TRI[group.tasks].flatten(0, 1))
            if gx_PI is not None:
                torch.mm(gz, A, out=gx_PI[group.rows])
        return grad[0], gx_PI, gA_TRI.float(), gB_TRO.transpose(1, 2).float() * ctx.scale, None, None


def _own_ranks(z: Tensor, group: TaskGroup) -> Tensor:
    """What a row has of other tasks' ranks set to zero, in place."""
    return z if group.owns is None else z.mul_(group.owns)


def _dropped(x_PI: Tensor, offsets: list[int], rate: float, streams: list[torch.Generator]) -> Tensor:
    """Inverted dropout whose mask comes from each task's own stream, so a cohort changes nothing."""
    keep = torch.empty_like(x_PI)
    for stream, (start, stop) in zip(streams, pairwise(offsets), strict=True):
        keep[start:stop].bernoulli_(1 - rate, generator=stream)
    return x_PI * keep / (1 - rate)
