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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters

RANKS_PER_PRODUCT = {"cpu": 16, "cuda": 64}
"""Tasks share a low-rank product up to this many ranks in all: a CPU's vector, a tile of a GPU's matrix units."""


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that share a low-rank product."""

    tasks: slice
    rows: slice
    own_scale: Tensor
    """`[rows, ranks of all tasks]`: LoRA's scale where the rank is of the row's own task, else 0. One row for a task
    alone."""


@dataclass(frozen=True)
class TaskRows:
    """Which rows of an activation belong to which task: task t owns `offsets[t] : offsets[t + 1]`."""

    offsets: list[int]
    groups: list[TaskGroup]


def task_rows(
    offsets: Sequence[int],
    owner_of_task: np.ndarray,
    rank: int,
    scale: float,
    device: torch.device,
    dtype: torch.dtype,
) -> TaskRows:
    """Groups of neighbouring tasks of one cell for the low-rank products of this rank."""
    size = max(1, RANKS_PER_PRODUCT[device.type] // rank)
    cell_ends = np.flatnonzero(np.diff(owner_of_task, append=owner_of_task[-1] + 1)) + 1
    groups, first = [], 0
    while first < len(owner_of_task):
        last = min(first + size, int(cell_ends[cell_ends > first][0]))
        lengths = [b - a for a, b in pairwise(offsets[first : last + 1])] if last - first > 1 else [1]
        own_scale = torch.block_diag(*(torch.full((length, rank), scale) for length in lengths)).to(device, dtype)
        groups.append(TaskGroup(slice(first, last), slice(offsets[first], offsets[last]), own_scale))
        first = last
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

    def __init__(self, base: nn.Module, site: str, context: ForwardContext) -> None:
        super().__init__()
        self.base = base
        self.site = site
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        """`[…, P, I] → […, P, O]` with a leading batch dimension of one or none."""
        context = self.context
        if context.adapters is None:
            y: Tensor = self.base(x)
            return y
        stacks = context.adapters.tensors
        A_TRI, B_TOR = stacks[self.site + LORA_A], stacks[self.site + LORA_B]
        x_PI = x.reshape(-1, x.shape[-1])
        weight_OI = frozen_weight(self.base)
        if weight_OI is None or context.dropout is not None:
            y_PO = self.base(x_PI)
            if context.dropout is not None:
                x_PI = _dropped(x_PI, context.rows.offsets, *context.dropout)
            y_PO = _AddLowRank.apply(y_PO, x_PI, A_TRI, B_TOR, context.rows.groups)
        else:
            y_PO = _AdaptedLinear.apply(x_PI, weight_OI, self.base.bias, A_TRI, B_TOR, context.rows.groups)
        shaped: Tensor = y_PO.view(*x.shape[:-1], y_PO.shape[-1])
        return shaped


def frozen_weight(linear: nn.Module) -> Tensor | None:
    """The weight `[O, I]` of a layer that multiplies by it as it stands; None for a quantised one."""
    weight: Any = linear.weight
    if not weight.is_floating_point():
        return None
    is_plain = type(linear) is nn.Linear
    return weight if is_plain else weight.T if type(linear).__name__ == "Conv1D" else None


class _AdaptedLinear(torch.autograd.Function):
    """`x Wᵀ + b + scale · x Aᵀ Bᵀ` as one operation: both gradients of x meet in one buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        x_PI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        A_TRI: Tensor,
        B_TOR: Tensor,
        groups: Sequence[TaskGroup],
    ) -> Tensor:
        y_PO = F.linear(x_PI, weight_OI, bias_O)
        ctx.low_rank = _LowRank.stacked(A_TRI, B_TOR, groups, x_PI.dtype)
        ctx.save_for_backward(x_PI, weight_OI, *ctx.low_rank.add(y_PO, x_PI))
        return y_PO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x_PI, weight_OI, *zs = ctx.saved_tensors
        gx_PI = grad[0] @ weight_OI if ctx.needs_input_grad[0] else None
        gA_TRI, gB_TOR = ctx.low_rank.gradients(grad[0], x_PI, zs, gx_PI)
        return gx_PI, None, None, gA_TRI, gB_TOR, None


class _AddLowRank(torch.autograd.Function):
    """`y + scale · x Aᵀ Bᵀ` in place, for a base that differentiates itself or an x that is not the base's."""

    @staticmethod
    def forward(
        ctx: Any, y_PO: Tensor, x_PI: Tensor, A_TRI: Tensor, B_TOR: Tensor, groups: Sequence[TaskGroup]
    ) -> Tensor:
        ctx.low_rank = _LowRank.stacked(A_TRI, B_TOR, groups, x_PI.dtype)
        ctx.save_for_backward(x_PI, *ctx.low_rank.add(y_PO, x_PI))
        ctx.mark_dirty(y_PO)
        return y_PO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        x_PI, *zs = ctx.saved_tensors
        gx_PI = torch.zeros_like(x_PI) if ctx.needs_input_grad[1] else None
        gA_TRI, gB_TOR = ctx.low_rank.gradients(grad[0], x_PI, zs, gx_PI)
        return grad[0], gx_PI, gA_TRI, gB_TOR, None


@dataclass(frozen=True)
class _LowRank:
    """The low-rank path of all tasks at one site, in the precision of the activations.

    A few tasks share each product: `z = x [A_1 … A_G]ᵀ` over the rows of all G; then a row's own ranks are scaled, and
    other tasks' set to zero. That wastes (G − 1)/G of a few percent and replaces G thin products by one of a shape that
    processors multiply at a good rate.
    """

    A_TRI: Tensor
    B_TRO: Tensor
    groups: Sequence[TaskGroup]

    @classmethod
    def stacked(cls, A_TRI: Tensor, B_TOR: Tensor, groups: Sequence[TaskGroup], dtype: torch.dtype) -> "_LowRank":
        return cls(A_TRI.to(dtype), B_TOR.to(dtype).transpose(1, 2).contiguous(), groups)

    def add(self, y_PO: Tensor, x_PI: Tensor) -> list[Tensor]:
        """Adds the path to y in place; `z` of each group, for the backward."""
        zs = []
        for group, A, B in self._shared():
            zs.append((x_PI[group.rows] @ A.T).mul_(group.own_scale))
            y_PO[group.rows].addmm_(zs[-1], B)
        return zs

    def gradients(
        self, g_PO: Tensor, x_PI: Tensor, zs: Sequence[Tensor], gx_PI: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Gradients of A `[T, R, I]` and B `[T, O, R]` in fp32; that of x is added to `gx_PI`."""
        gA_TRI, gB_TRO = torch.empty_like(self.A_TRI), torch.empty_like(self.B_TRO)
        for z, (group, A, B) in zip(zs, self._shared(), strict=True):
            g = g_PO[group.rows]
            gz = (g @ B.T).mul_(group.own_scale)
            torch.mm(z.T, g, out=gB_TRO[group.tasks].flatten(0, 1))
            torch.mm(gz.T, x_PI[group.rows], out=gA_TRI[group.tasks].flatten(0, 1))
            if gx_PI is not None:
                gx_PI[group.rows].addmm_(gz, A)
        return gA_TRI.float(), gB_TRO.transpose(1, 2).float()

    def _shared(self) -> Iterator[tuple[TaskGroup, Tensor, Tensor]]:
        """Each group with its stacked A `[ranks of all its tasks, I]` and B `[…, O]`."""
        for group in self.groups:
            yield group, self.A_TRI[group.tasks].flatten(0, 1), self.B_TRO[group.tasks].flatten(0, 1)


def _dropped(x_PI: Tensor, offsets: list[int], rate: float, streams: list[torch.Generator]) -> Tensor:
    """Inverted dropout whose mask comes from each task's own stream, so a cohort changes nothing."""
    keep = torch.empty_like(x_PI)
    for stream, (start, stop) in zip(streams, pairwise(offsets), strict=True):
        keep[start:stop].bernoulli_(1 - rate, generator=stream)
    return x_PI * keep / (1 - rate)
