"""The low-rank products of many tasks at once, in the ways that processors like them; all keep tasks apart, also NaN.

`z = scale · x Aᵀ`, `y += z B`, and their gradients, where task t has rows `offsets[t] : offsets[t + 1]` of x and y and
factors of its own. Layers that read the same x share z.

Suffixes: T tasks · P packed tokens · L places of the longest task · I inputs · O outputs · R rank · K ranks of layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from reptile_scaling.model.devices import multiplies_grouped

RANKS_PER_PRODUCT = 16
"""Tasks of one cell share a product up to this many ranks in all: a CPU's vector."""


@dataclass(frozen=True)
class Factors:
    """Of S layers that read the same x, in x's precision."""

    As: Sequence[Tensor]
    """`[T, R, I]`"""
    Bs: Sequence[Tensor]
    """`[T, R, O]`; their O differ."""
    joined_A: Tensor | None
    """All A side by side, as a kind of product wants them."""


class LowRankProducts(ABC):
    """What S layers that read the same x ask for."""

    @abstractmethod
    def join(self, As: Sequence[Tensor]) -> Tensor | None:
        """`Factors.joined_A`, made once for forward and backward."""

    @abstractmethod
    def add(self, ys: Sequence[Tensor], x_PI: Tensor, factors: Factors) -> list[Tensor]:
        """Adds the path to each layer's y `[P, O]` in place; what `gradients` needs of it."""

    @abstractmethod
    def gradients(
        self, gs: Sequence[Tensor], x_PI: Tensor, zs: Sequence[Tensor], factors: Factors, gx_PI: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of each layer's A `[T, R, I]` and B `[T, R, O]`; that of x is added to `gx_PI`."""

    @abstractmethod
    def plain(self, x_PI: Tensor, A_TRI: Tensor, B_TRO: Tensor) -> Tensor:
        """The path of one layer `[P, O]`, by operations that can be differentiated twice."""


def choose_products(
    offsets: Sequence[int], owner_of_task: np.ndarray, rank: int, scale: float, device: torch.device, dtype: torch.dtype
) -> LowRankProducts:
    """The quickest kind for a device: a CPU's cost is in thin products, an accelerator's in the number of launches."""
    if device.type == "cpu":
        return SharedProducts(task_groups(offsets, owner_of_task, rank, scale, dtype))
    if multiplies_grouped(device, dtype, rank):
        return GroupedProducts(torch.tensor(list(offsets[1:]), dtype=torch.int32, device=device), scale)
    return padded_products(offsets, scale, device)


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that share a low-rank product."""

    tasks: slice
    rows: slice
    own_scale: Tensor
    """`[rows, ranks of all tasks]`: LoRA's scale where the rank is of the row's own task, else 0. One row for a task
    alone."""


def task_groups(
    offsets: Sequence[int], owner_of_task: np.ndarray, rank: int, scale: float, dtype: torch.dtype
) -> list[TaskGroup]:
    """Neighbouring tasks of one cell, as many as share a product of this rank."""
    size = max(1, RANKS_PER_PRODUCT // rank)
    cell_ends = np.flatnonzero(np.diff(owner_of_task, append=owner_of_task[-1] + 1)) + 1
    groups, first = [], 0
    while first < len(owner_of_task):
        last = min(first + size, int(cell_ends[cell_ends > first][0]))
        lengths = [b - a for a, b in pairwise(offsets[first : last + 1])] if last - first > 1 else [1]
        own_scale = torch.block_diag(*(torch.full((length, rank), scale) for length in lengths)).to(dtype)
        groups.append(TaskGroup(slice(first, last), slice(offsets[first], offsets[last]), own_scale))
        first = last
    return groups


@dataclass(frozen=True)
class SharedProducts(LowRankProducts):
    """For a CPU: a few tasks of one cell share each product, `z = x [A_1 … A_G]ᵀ` over the rows of all G; then a row's
    own ranks are scaled, and other tasks' set to zero.

    That wastes (G − 1)/G of a few percent and replaces G thin products by one of a shape that processors multiply at a
    good rate. Layers lie side by side in z in the same way, and there nothing is wasted.
    """

    groups: Sequence[TaskGroup]

    def join(self, As: Sequence[Tensor]) -> Tensor:
        """`[S, T, R, I]`."""
        return torch.stack(list(As))

    def add(self, ys: Sequence[Tensor], x_PI: Tensor, factors: Factors) -> list[Tensor]:
        zs = []
        for group, A, own_Bs in self._shared(factors):
            z = x_PI[group.rows] @ A.T
            _scale_own(z, group, len(ys))
            for y_PO, own_z, B in zip(ys, z.chunk(len(ys), 1), own_Bs, strict=True):
                y_PO[group.rows].addmm_(own_z, B)
            zs.append(z)
        return zs

    def gradients(
        self, gs: Sequence[Tensor], x_PI: Tensor, zs: Sequence[Tensor], factors: Factors, gx_PI: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        assert factors.joined_A is not None
        gA_STRI, gBs_TRO = torch.empty_like(factors.joined_A), [torch.empty_like(B) for B in factors.Bs]
        for z, (group, A, own_Bs) in zip(zs, self._shared(factors), strict=True):
            gz = torch.empty_like(z)
            own = zip(gs, gBs_TRO, own_Bs, z.chunk(len(gs), 1), gz.chunk(len(gs), 1), strict=True)
            for g_PO, gB_TRO, B, own_z, own_gz in own:
                g = g_PO[group.rows]
                torch.mm(own_z.T, g, out=gB_TRO[group.tasks].flatten(0, 1))
                torch.mm(g, B.T, out=own_gz)
            _scale_own(gz, group, len(gs))
            gA_STRI[:, group.tasks] = (gz.T @ x_PI[group.rows]).view(len(gs), -1, *gA_STRI.shape[2:])
            if gx_PI is not None:
                gx_PI[group.rows].addmm_(gz, A)
        return list(gA_STRI), gBs_TRO

    def plain(self, x_PI: Tensor, A_TRI: Tensor, B_TRO: Tensor) -> Tensor:
        paths = []
        for group in self.groups:
            A, B = A_TRI[group.tasks].flatten(0, 1), B_TRO[group.tasks].flatten(0, 1)
            paths.append((x_PI[group.rows] @ A.T * group.own_scale) @ B)
        return torch.cat(paths)

    def _shared(self, factors: Factors) -> Iterator[tuple[TaskGroup, Tensor, list[Tensor]]]:
        """Each group with its stacked A `[ranks of all its layers and tasks, I]` and each layer's B `[ranks, O]`."""
        assert factors.joined_A is not None
        for group in self.groups:
            A = factors.joined_A[:, group.tasks].flatten(0, 2)
            yield group, A, [B[group.tasks].flatten(0, 1) for B in factors.Bs]


def _scale_own(z: Tensor, group: TaskGroup, n_layers: int) -> None:
    """Scales a row's own ranks and sets others to zero, in place."""
    z.unflatten(1, (n_layers, -1)).mul_(group.own_scale[:, None])


@dataclass(frozen=True)
class PaddedProducts(LowRankProducts):
    """For any accelerator: one batched product for all tasks, whose rows are padded to those of the longest."""

    place_P: Tensor
    """Flattened place of each row in `[T, L]`."""
    n_tasks: int
    width: int
    scale: float

    def join(self, As: Sequence[Tensor]) -> Tensor:
        """`[T, K, I]`."""
        return torch.cat(list(As), 1) if len(As) > 1 else As[0]

    def add(self, ys: Sequence[Tensor], x_PI: Tensor, factors: Factors) -> list[Tensor]:
        assert factors.joined_A is not None
        z_TLK = self._scaled(self._fill(x_PI), factors.joined_A.transpose(1, 2))
        for y_PO, z_TLR, B_TRO in zip(ys, z_TLK.chunk(len(ys), 2), factors.Bs, strict=True):
            y_PO.add_(self._empty(torch.bmm(z_TLR, B_TRO)))
        return [z_TLK]

    def gradients(
        self, gs: Sequence[Tensor], x_PI: Tensor, zs: Sequence[Tensor], factors: Factors, gx_PI: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        x_TLI, gzs, gBs = self._fill(x_PI), [], []
        for g_PO, z_TLR, B_TRO in zip(gs, zs[0].chunk(len(gs), 2), factors.Bs, strict=True):
            g_TLO = self._fill(g_PO)
            gBs.append(torch.bmm(z_TLR.transpose(1, 2), g_TLO))
            gzs.append(self._scaled(g_TLO, B_TRO.transpose(1, 2)))
        gAs = [torch.bmm(gz_TLR.transpose(1, 2), x_TLI) for gz_TLR in gzs]
        if gx_PI is not None:
            assert factors.joined_A is not None
            gz_TLK = torch.cat(gzs, 2) if len(gzs) > 1 else gzs[0]
            gx_PI.add_(self._empty(torch.bmm(gz_TLK, factors.joined_A)))
        return gAs, gBs

    def plain(self, x_PI: Tensor, A_TRI: Tensor, B_TRO: Tensor) -> Tensor:
        return self._empty(torch.bmm(torch.bmm(self._fill(x_PI), A_TRI.transpose(1, 2)) * self.scale, B_TRO))

    def _scaled(self, left: Tensor, right: Tensor) -> Tensor:
        """LoRA's scale times the product, in one launch."""
        product = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
        return torch.baddbmm(product, left, right, beta=0, alpha=self.scale)

    def _fill(self, rows: Tensor) -> Tensor:
        """Rows into their places; the empty ones are zero, since a product of gradients sums over all of them."""
        places = rows.new_zeros(self.n_tasks * self.width, rows.shape[1]).index_copy_(0, self.place_P, rows)
        return places.view(self.n_tasks, self.width, -1)

    def _empty(self, places: Tensor) -> Tensor:
        return places.flatten(0, 1)[self.place_P]


def padded_products(offsets: Sequence[int], scale: float, device: torch.device) -> PaddedProducts:
    """For tasks of these rows."""
    lengths = np.diff(np.asarray(offsets))
    width = int(lengths.max(initial=1))
    place_P = np.concatenate([task * width + np.arange(length) for task, length in enumerate(lengths)])
    return PaddedProducts(torch.from_numpy(place_P).to(device), len(lengths), width, scale)


@dataclass(frozen=True)
class GroupedProducts(LowRankProducts):
    """For an accelerator that multiplies groups of unequal rows in one launch: no padding."""

    ends_T: Tensor
    """Where each task's rows end, int32."""
    scale: float

    def join(self, As: Sequence[Tensor]) -> None:
        """Each layer's A is used alone."""

    def add(self, ys: Sequence[Tensor], x_PI: Tensor, factors: Factors) -> list[Tensor]:
        zs = [self._product(x_PI, A_TRI.transpose(1, 2)).mul_(self.scale) for A_TRI in factors.As]
        for y_PO, z_PR, B_TRO in zip(ys, zs, factors.Bs, strict=True):
            y_PO.add_(self._product(z_PR, B_TRO))
        return zs

    def gradients(
        self, gs: Sequence[Tensor], x_PI: Tensor, zs: Sequence[Tensor], factors: Factors, gx_PI: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        gAs, gBs = [], []
        for g_PO, z_PR, A_TRI, B_TRO in zip(gs, zs, factors.As, factors.Bs, strict=True):
            gz_PR = self._product(g_PO, B_TRO.transpose(1, 2)).mul_(self.scale)
            gBs.append(self._product(z_PR.T, g_PO))
            gAs.append(self._product(gz_PR.T, x_PI))
            if gx_PI is not None:
                gx_PI.add_(self._product(gz_PR, A_TRI))
        return gAs, gBs

    def plain(self, x_PI: Tensor, A_TRI: Tensor, B_TRO: Tensor) -> Tensor:
        return self._product(self._product(x_PI, A_TRI.transpose(1, 2)) * self.scale, B_TRO)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        """`[P, a] · [T, a, b] → [P, b]`, or `[a, P] · [P, b] → [T, a, b]` where the rows are summed over."""
        return torch.nn.functional.grouped_mm(left, right, offs=self.ends_T)
