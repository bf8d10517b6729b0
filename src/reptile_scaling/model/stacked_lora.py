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

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters
from reptile_scaling.model.low_rank import Factors, LowRankProducts, SharedProducts
from reptile_scaling.model.second_order import gradients_to

Dropout = tuple[float, list[torch.Generator]] | None
"""Rate, and a stream of random numbers for each task."""


@dataclass(frozen=True)
class TaskRows:
    """Which rows of an activation belong to which task: task t owns `offsets[t] : offsets[t + 1]`."""

    offsets: list[int]
    products: LowRankProducts


@dataclass
class ForwardContext(threading.local):
    """What the forward in progress works on; shared by the wrapped layers of a model, each thread sees its own."""

    adapters: Adapters | None = None
    rows: TaskRows = field(default_factory=lambda: TaskRows([0], SharedProducts([])))
    """The tasks' tokens, or inside `on_answers` the tasks' prompts."""
    prompts: TaskRows = field(default_factory=lambda: TaskRows([0], SharedProducts([])))
    answer_rows: Tensor | None = None
    """Row of each prompt's last token."""
    whole: Tensor | None = None
    """`[1, P, D]`: what enters the last layer while it works on answer rows alone."""
    asks: bool = False
    """Whether the last layer's attention is being called for its answer rows."""
    keys: tuple[Tensor, Tensor] | None = None
    """What it then attends to: keys and values of all rows."""
    kept: dict[str, list[Tensor]] | None = None
    """What no adapter changes of the batch in progress, by site or name; None where nothing is to be kept."""
    dropout: Dropout = None
    """LoRA dropout rate and a random stream per task; None outside meta-training."""
    ahead: dict[str, Tensor] = field(default_factory=dict)
    """What layers have computed for later ones that read the same input, by site."""
    runs: range = range(0)
    """The layers that compute; others pass on what they are given."""
    entering: Tensor | None = None
    """`[1, P, D]`: what enters the first layer above those that run, or is to enter the first that does."""

    def once(self, name: str, compute: Callable[[], list[Tensor]]) -> list[Tensor] | None:
        """What `compute` gives, computed at the first forward of the batch in progress; None where nothing is kept."""
        if self.kept is None:
            return None
        if name not in self.kept:
            with torch.no_grad():
                self.kept[name] = compute()
        return self.kept[name]

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
        self.is_constant = False
        """Whether no adapter changes x."""

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
            frozen = context.once(self.site, lambda: _linears(x_PI, weights, biases)) if self.is_constant else None
            ys = _AdaptedLinears.apply(x_PI, context.rows.products, frozen, len(readers), *weights, *biases, *As, *Bs)
            for reader, y_PO in zip(readers[1:], ys[1:], strict=True):
                context.ahead[reader.site] = y_PO.view(*x.shape[:-1], y_PO.shape[-1])
            y_PO = ys[0]
        else:
            y_PO = self.base(x_PI)
            if context.dropout is not None:
                x_PI = x_PI * dropout_mask(x_PI, context.rows.offsets, *context.dropout)
            y_PO = _AddLowRank.apply(y_PO, x_PI, *self.factors(), context.rows.products)
        shaped: Tensor = y_PO.view(*x.shape[:-1], y_PO.shape[-1])
        return shaped

    def factors(self) -> tuple[Tensor, Tensor]:
        """A `[T, R, I]` and B `[T, O, R]` of the forward in progress."""
        assert self.context.adapters is not None
        stacks = self.context.adapters.tensors
        return stacks[self.site + LORA_A], stacks[self.site + LORA_B]


Seen = list[tuple[Any, Any]]
"""Modules in the order of their calls, and what each read, or gave: a tensor, or of an attention module a tuple."""


def watch(layers: Sequence[nn.Module], givers: Sequence[nn.Module], forward: Callable[[], object]) -> Seen:
    """What the `layers` read and the `givers` give in a forward."""
    seen: Seen = []
    hooks = [layer.register_forward_pre_hook(lambda one, read: seen.append((one, read[0]))) for layer in layers]
    hooks += [giver.register_forward_hook(lambda one, _, given: seen.append((one, given))) for giver in givers]
    forward()
    for hook in hooks:
        hook.remove()
    return seen


def join_readers(seen: Seen) -> None:
    """Has layers that read the same x share what it costs: query, key and value projections, and a gated MLP's two."""
    read = [(layer, x) for layer, x in seen if isinstance(layer, StackedLora)]
    while read:
        x = read[0][1]
        first, *others = (layer for layer, its_x in read if its_x is x)
        first.readers = (first, *others)
        read = [pair for pair in read if pair[1] is not x]


def mark_constants(seen: Seen, again: Seen) -> None:
    """Marks the modules that have read, or given, the same once in each of two forwards under different adapters."""
    for module in {id(module): module for module, _ in seen}.values():
        first, second = ([tensor for one, tensor in own if one is module] for own in (seen, again))
        is_tensor = len(first) == len(second) == 1 and isinstance(first[0], Tensor) and isinstance(second[0], Tensor)
        module.is_constant = is_tensor and torch.equal(first[0], second[0])


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
        ctx: Any, x_PI: Tensor, products: LowRankProducts, frozen: list[Tensor] | None, n_layers: int, *of_layers: Any
    ) -> tuple[Tensor, ...]:
        """`of_layers` are the S weights `[O, I]`, S biases `[O]` or None, S A `[T, R, I]` and S B `[T, O, R]`;
        `frozen` is `x W_sᵀ + b_s` where that is known."""
        weights, biases, As, Bs = (of_layers[i : i + n_layers] for i in range(0, 4 * n_layers, n_layers))
        ys = [y_PO.clone() for y_PO in frozen] if frozen is not None else _linears(x_PI, weights, biases)
        ctx.factors = _factors(products, As, Bs, x_PI.dtype)
        zs = products.add(ys, x_PI, ctx.factors)
        ctx.n_layers, ctx.biases, ctx.products = n_layers, biases, products
        ctx.save_for_backward(x_PI, *weights, *As, *Bs, *zs)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n = ctx.n_layers
        x_PI, *saved = ctx.saved_tensors
        weights, As, Bs, zs = saved[:n], saved[n : 2 * n], saved[2 * n : 3 * n], saved[3 * n :]
        if torch.is_grad_enabled():  # second derivatives are wanted, which torch's own operations have
            ys = plain_linears(x_PI, ctx.products, weights, ctx.biases, As, Bs)
            gx, *g_factors = gradients_to(ys, (x_PI, *As, *Bs), grads)
            return gx, None, None, None, *(None,) * (2 * n), *g_factors
        gx_PI = None
        if ctx.needs_input_grad[0]:
            gx_PI = grads[0] @ weights[0]
            for g_PO, weight_OI in zip(grads[1:], weights[1:], strict=True):
                gx_PI.addmm_(g_PO, weight_OI)
        gAs, gBs = _as_asked(*ctx.products.gradients(grads, x_PI, zs, ctx.factors, gx_PI))
        return gx_PI, None, None, None, *(None,) * (2 * n), *gAs, *gBs


def _linears(x_PI: Tensor, weights: Sequence[Any], biases: Sequence[Any]) -> list[Tensor]:
    return [F.linear(x_PI, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def plain_linears(
    x_PI: Tensor,
    products: LowRankProducts,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    As: Sequence[Tensor],
    Bs: Sequence[Tensor],
) -> list[Tensor]:
    """What `_AdaptedLinears` computes, by torch's own operations."""
    ys = []
    for weight_OI, bias_O, A_TRI, B_TOR in zip(weights, biases, As, Bs, strict=True):
        path_PO = products.plain(x_PI, A_TRI.to(x_PI.dtype), B_TOR.to(x_PI.dtype).transpose(1, 2))
        ys.append(F.linear(x_PI, weight_OI, bias_O) + path_PO)
    return ys


class _AddLowRank(torch.autograd.Function):
    """`y + scale · x Aᵀ Bᵀ` in place, for a base that differentiates itself or an x that is not the base's."""

    @staticmethod
    def forward(
        ctx: Any, y_PO: Tensor, x_PI: Tensor, A_TRI: Tensor, B_TOR: Tensor, products: LowRankProducts
    ) -> Tensor:
        ctx.products = products
        ctx.factors = _factors(products, [A_TRI], [B_TOR], x_PI.dtype)
        ctx.save_for_backward(x_PI, *products.add([y_PO], x_PI, ctx.factors))
        ctx.mark_dirty(y_PO)
        return y_PO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        x_PI, *zs = ctx.saved_tensors
        gx_PI = torch.zeros_like(x_PI) if ctx.needs_input_grad[1] else None
        (gA_TRI,), (gB_TOR,) = _as_asked(*ctx.products.gradients(grad, x_PI, zs, ctx.factors, gx_PI))
        return grad[0], gx_PI, gA_TRI, gB_TOR, None


def _factors(products: LowRankProducts, As: Sequence[Tensor], Bs: Sequence[Tensor], dtype: torch.dtype) -> Factors:
    """In the precision of the activations; no copy of B where `in_working_order` has been."""
    own_As = [A.to(dtype) for A in As]
    return Factors(own_As, [B.to(dtype).transpose(1, 2).contiguous() for B in Bs], products.join(own_As))


def _as_asked(gAs: list[Tensor], gBs_TRO: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of A `[T, R, I]` and B `[T, O, R]` in fp32."""
    return [gA.float() for gA in gAs], [gB.transpose(1, 2).float() for gB in gBs_TRO]


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
