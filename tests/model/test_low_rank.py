"""The kinds of low-rank products against each task alone, by torch's own operations."""

import numpy as np
import pytest
import torch

from reptile_scaling.model.devices import grouped_product_is_right
from reptile_scaling.model.low_rank import (
    Factors,
    GroupedProducts,
    LowRankProducts,
    SharedProducts,
    padded_products,
    task_groups,
)

OFFSETS, OWNERS, RANK, SCALE, D_IN, D_OUTS = [0, 3, 4, 9, 15, 17], np.array([0, 0, 0, 1, 1]), 8, 2.0, 16, (24, 8, 8)
CPU = torch.device("cpu")
KINDS = {
    "shared": lambda: SharedProducts(task_groups(OFFSETS, OWNERS, RANK, SCALE, torch.float32)),
    "padded": lambda: padded_products(OFFSETS, SCALE, CPU),
    "grouped": lambda: GroupedProducts(torch.tensor(OFFSETS[1:], dtype=torch.int32), SCALE),
}


def random_work() -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    n_tasks, n_rows = len(OWNERS), OFFSETS[-1]
    x = torch.randn(n_rows, D_IN, generator=generator)
    As = [torch.randn(n_tasks, RANK, D_IN, generator=generator) for _ in D_OUTS]
    Bs = [torch.randn(n_tasks, RANK, d_out, generator=generator) for d_out in D_OUTS]
    return x, As, Bs, [torch.randn(n_rows, d_out, generator=generator) for d_out in D_OUTS]


def alone(x: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    rows = [slice(a, b) for a, b in zip(OFFSETS[:-1], OFFSETS[1:], strict=True)]
    return torch.cat([SCALE * (x[r] @ A[t].T) @ B[t] for t, r in enumerate(rows)])


@pytest.mark.parametrize("kind", KINDS)
def test_all_tasks_at_once_equal_each_alone_forward_and_backward(kind: str) -> None:
    products: LowRankProducts = KINDS[kind]()
    x, As, Bs, gs = random_work()
    factors = Factors(As, Bs, products.join(As))
    ys = [torch.ones_like(g) for g in gs]
    zs = products.add(ys, x, factors)
    gx = torch.ones_like(x)
    gAs, gBs = products.gradients(gs, x, zs, factors, gx)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, *As, *Bs)]
    expected = [alone(leaves[0], leaves[1 + s], leaves[1 + len(As) + s]) for s in range(len(As))]
    for y, path, A, B in zip(ys, expected, As, Bs, strict=True):
        torch.testing.assert_close(y, 1 + path)
        torch.testing.assert_close(products.plain(x, A, B), path)
    gradients = torch.autograd.grad(expected, leaves, gs)
    for ours, theirs in zip((gx - 1, *gAs, *gBs), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [0, 4])
def test_nan_of_one_cell_stays_there(kind: str, bad: int) -> None:
    products: LowRankProducts = KINDS[kind]()
    x, As, Bs, gs = random_work()
    for tensor in (*As, *Bs):
        tensor[bad] = torch.nan
    factors = Factors(As, Bs, products.join(As))
    ys, gx = [torch.ones_like(g) for g in gs], torch.ones_like(x)
    gAs, gBs = products.gradients(gs, x, products.add(ys, x, factors), factors, gx)
    others = np.flatnonzero(OWNERS[bad] != OWNERS)
    rows = np.concatenate([np.arange(OFFSETS[t], OFFSETS[t + 1]) for t in others])
    assert all(y[rows].isfinite().all() for y in (*ys, gx))
    assert all(g[others].isfinite().all() for g in (*gAs, *gBs))


def test_trial_of_grouped_products_passes_where_they_are_right() -> None:
    assert grouped_product_is_right(CPU, torch.bfloat16, 8)


def test_trial_of_grouped_products_fails_where_they_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.nn.functional.grouped_mm
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", lambda *args, **kwargs: right(*args, **kwargs) * 1.1)
    assert not grouped_product_is_right(CPU, torch.bfloat16, 8)

    def absent(*_: object, **__: object) -> None:
        raise RuntimeError("not implemented")

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", absent)
    assert not grouped_product_is_right(CPU, torch.bfloat16, 8)
