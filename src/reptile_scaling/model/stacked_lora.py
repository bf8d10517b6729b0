"""LoRA of many tasks over one frozen linear layer (Hu et al. 2021, arXiv:2106.09685), exact.

The frozen layer runs once over all tokens; task t's low-rank path `scale · B_t A_t x` is added to its own rows.
The sum of per-task losses therefore gives every task its own gradient.

Suffixes: T tasks · P packed tokens · I inputs · O outputs · R rank.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
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
from reptile_scaling.model.second_order import gradients_to

RANKS_PER_PRODUCT = {"cpu": 16, "cuda": 64}
"""Tasks share a low-rank product up to this many ranks in all: a CPU's vector, a tile of a GPU's matrix units."""


Dropout = tuple[float, list[torch.Generator]] | None
"""Rate, and a stream of random numbers for each task."""


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
class ForwardContext(threading.local):
    """What the forward in progress works on; shared by the wrapped layers of a model, each thread sees its own."""

    adapters: Adapters | None = None
    rows: TaskRows = field(default_factory=lambda: TaskRows([0], []))
    """The tasks' tokens, or inside `on_answers` the tasks' prompts."""
    prompts: TaskRows = field(default_factory=lambda: TaskRows([0], []))
    answer_rows: Tensor | None = None
    """Row of each prompt's last token."""
    dropout: Dropout = None
    """LoRA dropout rate and a random stream per task; None outside meta-training."""
    ahead: dict[str, Tensor] = field(default_factory=dict)
    """What layers have computed for later ones that read the same input, by site."""
    runs: range = range(0)
    """The layers that compute; others pass on what they are given."""
    entering: Tensor | None = None
    """`[1, P, D]`: what enters the first layer above those that run, or is to enter the first that does."""

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
        self.readers: tuple[StackedLora, ...] = (self,)
        """All layers that read the same x, in their order, if this is the first of them: it computes for all."""

    def forward(self, x: Tensor) -> Tensor:
        """`[…, P, I] → […, P, O]` with a leading batch dimension of one or none."""
        context = self.context
        if context.adapters is None:
            y: Tensor = self.base(x)
            return y
        if self.site in context.ahead:
            return context.ahead.pop(self.site)
        x_PI = x.reshape(-1, x.shape[-1])
        readers = self.readers if context.dropout is None else (self,)
        weights = [frozen_weight(reader.base) for reader in readers]
        if context.dropout is None and all(weight is not None for weight in weights):
            biases = [reader.base.bias for reader in readers]
            As, Bs = zip(*(reader.factors() for reader in readers), strict=True)
            ys = _AdaptedLinears.apply(x_PI, context.rows.groups, len(readers), *weights, *biases, *As, *Bs)
            for reader, y_PO in zip(readers[1:], ys[1:], strict=True):
                context.ahead[reader.site] = y_PO.view(*x.shape[:-1], y_PO.shape[-1])
            y_PO = ys[0]
        else:
            y_PO = self.base(x_PI)
            if context.dropout is not None:
                x_PI = x_PI * dropout_mask(x_PI, context.rows.offsets, *context.dropout)
            y_PO = _AddLowRank.apply(y_PO, x_PI, *self.factors(), context.rows.groups)
        shaped: Tensor = y_PO.view(*x.shape[:-1], y_PO.shape[-1])
        return shaped

    def factors(self) -> tuple[Tensor, Tensor]:
        """A `[T, R, I]` and B `[T, O, R]` of the forward in progress."""
        assert self.context.adapters is not None
        stacks = self.context.adapters.tensors
        return stacks[self.site + LORA_A], stacks[self.site + LORA_B]


def join_readers(model: nn.Module, forward: Callable[[], object]) -> None:
    """Finds which of the model's layers read the same x, by watching a forward; those share what x costs.

    Query, key and value projections do, and a gated MLP's two.
    """
    layers = [module for module in model.modules() if isinstance(module, StackedLora)]
    read: list[tuple[StackedLora, Tensor]] = []
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: read.append((layer, inputs[0]))) for layer in layers]
    forward()
    for hook in hooks:
        hook.remove()
    while read:
        x = read[0][1]
        first, *others = (layer for layer, its_x in read if its_x is x)
        first.readers = (first, *others)
        read = [pair for pair in read if pair[1] is not x]


def frozen_weight(linear: nn.Module) -> Tensor | None:
    """The weight `[O, I]` of a layer that multiplies by it as it stands; None for a quantised one."""
    weight: Any = linear.weight
    if not weight.is_floating_point():
        return None
    is_plain = type(linear) is nn.Linear
    return weight if is_plain else weight.T if type(linear).__name__ == "Conv1D" else None


class _AdaptedLinears(torch.autograd.Function):
    """`x W_sᵀ + b_s + scale · x A_sᵀ B_sᵀ` of S layers as one operation: all gradients of x meet in one buffer."""

    @staticmethod
    def forward(
        ctx: Any, x_PI: Tensor, groups: Sequence[TaskGroup], n_layers: int, *of_layers: Any
    ) -> tuple[Tensor, ...]:
        """`of_layers` are the S weights `[O, I]`, S biases `[O]` or None, S A `[T, R, I]` and S B `[T, O, R]`."""
        weights, biases, As, Bs = (of_layers[i : i + n_layers] for i in range(0, 4 * n_layers, n_layers))
        ys = [F.linear(x_PI, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        ctx.low_rank = _LowRank.of_layers(As, Bs, groups, x_PI.dtype)
        zs = ctx.low_rank.add(ys, x_PI)
        ctx.n_layers, ctx.biases = n_layers, biases
        ctx.save_for_backward(x_PI, *weights, *As, *Bs, *zs)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n = ctx.n_layers
        x_PI, *saved = ctx.saved_tensors
        weights, As, Bs, zs = saved[:n], saved[n : 2 * n], saved[2 * n : 3 * n], saved[3 * n :]
        if torch.is_grad_enabled():  # second derivatives are wanted, which torch's own operations have
            ys = plain_linears(x_PI, ctx.low_rank.groups, weights, ctx.biases, As, Bs)
            gx, *g_factors = gradients_to(ys, (x_PI, *As, *Bs), grads)
            return gx, None, None, *(None,) * (2 * n), *g_factors
        gx_PI = None
        if ctx.needs_input_grad[0]:
            gx_PI = grads[0] @ weights[0]
            for g_PO, weight_OI in zip(grads[1:], weights[1:], strict=True):
                gx_PI.addmm_(g_PO, weight_OI)
        gAs, gBs = ctx.low_rank.gradients(grads, x_PI, zs, gx_PI)
        return gx_PI, None, None, *(None,) * (2 * n), *gAs, *gBs


def plain_linears(
    x_PI: Tensor,
    groups: Sequence[TaskGroup],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    As: Sequence[Tensor],
    Bs: Sequence[Tensor],
) -> list[Tensor]:
    """What `_AdaptedLinears` computes, by torch's own operations."""
    ys = []
    for weight_OI, bias_O, A_TRI, B_TOR in zip(weights, biases, As, Bs, strict=True):
        paths = []
        for group in groups:
            A, B = A_TRI[group.tasks].flatten(0, 1), B_TOR[group.tasks].transpose(1, 2).flatten(0, 1)
            paths.append((x_PI[group.rows] @ A.to(x_PI.dtype).T * group.own_scale) @ B.to(x_PI.dtype))
        ys.append(F.linear(x_PI, weight_OI, bias_O) + torch.cat(paths))
    return ys


class _AddLowRank(torch.autograd.Function):
    """`y + scale · x Aᵀ Bᵀ` in place, for a base that differentiates itself or an x that is not the base's."""

    @staticmethod
    def forward(
        ctx: Any, y_PO: Tensor, x_PI: Tensor, A_TRI: Tensor, B_TOR: Tensor, groups: Sequence[TaskGroup]
    ) -> Tensor:
        ctx.low_rank = _LowRank.of_layers([A_TRI], [B_TOR], groups, x_PI.dtype)
        ctx.save_for_backward(x_PI, *ctx.low_rank.add([y_PO], x_PI))
        ctx.mark_dirty(y_PO)
        return y_PO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        x_PI, *zs = ctx.saved_tensors
        gx_PI = torch.zeros_like(x_PI) if ctx.needs_input_grad[1] else None
        (gA_TRI,), (gB_TOR,) = ctx.low_rank.gradients(grad, x_PI, zs, gx_PI)
        return grad[0], gx_PI, gA_TRI, gB_TOR, None


@dataclass(frozen=True)
class _LowRank:
    """The low-rank path of all tasks at S layers that read the same x, in the precision of the activations.

    A few tasks share each product: `z = x [A_1 … A_G]ᵀ` over the rows of all G; then a row's own ranks are scaled, and
    other tasks' set to zero. That wastes (G − 1)/G of a few percent and replaces G thin products by one of a shape that
    processors multiply at a good rate. Layers lie side by side in z in the same way, and there nothing is wasted.
    """

    A_STRI: Tensor
    Bs_TRO: Sequence[Tensor]
    """One for each layer; their O differ."""
    groups: Sequence[TaskGroup]

    @classmethod
    def of_layers(
        cls, As: Sequence[Tensor], Bs: Sequence[Tensor], groups: Sequence[TaskGroup], dtype: torch.dtype
    ) -> "_LowRank":
        # No copy where `in_working_order` has been.
        Bs_TRO = [B.to(dtype).transpose(1, 2).contiguous() for B in Bs]
        return cls(torch.stack([A.to(dtype) for A in As]), Bs_TRO, groups)

    def add(self, ys: Sequence[Tensor], x_PI: Tensor) -> list[Tensor]:
        """Adds the path to each layer's y `[P, O]` in place; `z` of each group, for the backward."""
        zs = []
        for group, A, Bs in self._shared():
            z = x_PI[group.rows] @ A.T
            self._scale_own(z, group)
            for y_PO, own_z, B in zip(ys, z.chunk(len(ys), 1), Bs, strict=True):
                y_PO[group.rows].addmm_(own_z, B)
            zs.append(z)
        return zs

    def gradients(
        self, gs: Sequence[Tensor], x_PI: Tensor, zs: Sequence[Tensor], gx_PI: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of A `[T, R, I]` and B `[T, O, R]` of each layer in fp32; that of x is added to `gx_PI`."""
        gA_STRI, gBs_TRO = torch.empty_like(self.A_STRI), [torch.empty_like(B) for B in self.Bs_TRO]
        for z, (group, A, Bs) in zip(zs, self._shared(), strict=True):
            gz = torch.empty_like(z)
            own = zip(gs, gBs_TRO, Bs, z.chunk(len(gs), 1), gz.chunk(len(gs), 1), strict=True)
            for g_PO, gB_TRO, B, own_z, own_gz in own:
                g = g_PO[group.rows]
                torch.mm(own_z.T, g, out=gB_TRO[group.tasks].flatten(0, 1))
                torch.mm(g, B.T, out=own_gz)
            self._scale_own(gz, group)
            gA_STRI[:, group.tasks] = (gz.T @ x_PI[group.rows]).view(len(gs), -1, *gA_STRI.shape[2:])
            if gx_PI is not None:
                gx_PI[group.rows].addmm_(gz, A)
        return list(gA_STRI.float()), [gB_TRO.transpose(1, 2).float() for gB_TRO in gBs_TRO]

    def _scale_own(self, z: Tensor, group: TaskGroup) -> None:
        """Scales a row's own ranks and sets others to zero, in place."""
        z.unflatten(1, (len(self.Bs_TRO), -1)).mul_(group.own_scale[:, None])

    def _shared(self) -> Iterator[tuple[TaskGroup, Tensor, list[Tensor]]]:
        """Each group with its stacked A `[ranks of all its layers and tasks, I]` and each layer's B `[ranks, O]`."""
        for group in self.groups:
            A = self.A_STRI[:, group.tasks].flatten(0, 2)
            yield group, A, [B[group.tasks].flatten(0, 1) for B in self.Bs_TRO]


def in_working_order(theta: Adapters) -> Adapters:
    """A copy whose B lie in memory as `[T, R, O]`, so that no step has to move them; shapes stay."""

    def copied(name: str, tensor: Tensor) -> Tensor:
        if name.endswith(LORA_B):
            return tensor.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
        return tensor.clone(memory_format=torch.contiguous_format)

    return Adapters({name: copied(name, tensor) for name, tensor in theta.tensors.items()})


def dropout_mask(like_PI: Tensor, offsets: list[int], rate: float, streams: list[torch.Generator]) -> Tensor:
    """Inverted dropout's factors, drawn from each task's own stream, so a cohort changes nothing."""
    keep = torch.empty_like(like_PI)
    for stream, (start, stop) in zip(streams, pairwise(offsets), strict=True):
        keep[start:stop].bernoulli_(1 - rate, generator=stream)
    return keep / (1 - rate)
