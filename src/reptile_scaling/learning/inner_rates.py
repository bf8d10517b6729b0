"""Rates of the inner loop that are learned: one for each inner step and each adapted matrix, in log space.

MAML++'s per-step, per-layer rates (Antoniou, Edwards & Storkey 2019, arXiv:1810.09502) after Meta-SGD (Li et al. 2017,
arXiv:1707.09835). With φ_{k+1} = φ_k − α_k u_k the query loss falls with log α_k at α_k ⟨g, u_k⟩, where g is its
gradient in φ_{k+1}. `maml` and `anil` have that gradient; to first order it is the one where adaptation ended, at φ_K.
A step beyond those trained takes the last one's rate.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reptile_scaling.config import Config
from reptile_scaling.learning.task_batch import InnerLoop
from reptile_scaling.model.adapters import HEAD_NAMES, LOG_RATE, Adapters
from reptile_scaling.runs.records import InnerRate


def fresh_rates(theta: Adapters, adapts: Literal["all", "head"], config: Config) -> dict[str, Tensor]:
    """log `inner_lr` for each of `k_inner` steps `[K]` and each matrix that the inner loop moves; else nothing."""
    if config.inner_rates == "fixed":
        return {}
    moving = [name for name in theta.tensors if adapts == "all" or name in HEAD_NAMES]
    device = next(iter(theta.tensors.values())).device
    first = torch.full((config.k_inner,), config.inner_lr, device=device).log()
    return {name + LOG_RATE: first.clone() for name in moving}


def split_rates(theta: Adapters) -> tuple[Adapters, Adapters | None]:
    """θ without its log-rates, and these under their matrices' names; None where rates are not learned."""
    own = {name: tensor for name, tensor in theta.tensors.items() if not name.endswith(LOG_RATE)}
    rates = {n.removesuffix(LOG_RATE): tensor for n, tensor in theta.tensors.items() if n.endswith(LOG_RATE)}
    return Adapters(own), Adapters(rates) if rates else None


def has_rates(theta: Adapters) -> bool:
    """Whether its rates are learned."""
    return any(name.endswith(LOG_RATE) for name in theta.tensors)


def times_rates(theta: Adapters, factor: float) -> Adapters:
    """θ with all its learned rates multiplied."""
    shift = math.log(factor)
    return Adapters({name: x + shift if name.endswith(LOG_RATE) else x for name, x in theta.tensors.items()})


def first_order(gradient: Adapters, directions: Sequence[Sequence[Tensor]], rates: Adapters) -> dict[str, Tensor]:
    """−α_k ⟨g, u_k⟩ of each task, `[T, K]` by the name of its log-rate; g `[T, …]` is the query gradient at φ_K.

    `directions` are those of the K steps, in the order of `rates`.
    """
    found = {}
    for i, (name, log_rates_TK) in enumerate(rates.tensors.items()):
        g = gradient.tensors[name]
        along_TK = torch.stack([(g * own[i]).reshape(len(g), -1).sum(1) for own in directions], dim=1)
        found[name + LOG_RATE] = -log_rates_TK.exp() * along_TK
    return found


def rates_of_step(log_rates: Adapters, k: int) -> Adapters:
    """Log-rates `[T, K]` of step k alone, `[T, 1]`."""
    return log_rates.map(lambda rates_TK: rates_TK[:, k : k + 1])


def scaled(vector: Adapters, loop: InnerLoop, log_rates: Adapters | None, k: int) -> Adapters:
    """A stack times the rates of step k, each task's and matrix's own where they are learned."""
    if log_rates is None:
        return vector.map(lambda x: loop.learning_rate * x)
    return vector.combine(log_rates, lambda x, r: r[:, k].exp().view(-1, *(1,) * (x.ndim - 1)) * x)


def rate_table(theta: Adapters) -> list[InnerRate]:
    """Every learned rate of one cell, step by step within each matrix; nothing where they are fixed."""
    _, rates = split_rates(theta)
    found = rates.tensors.items() if rates is not None else ()
    return [InnerRate(n, k + 1, rate) for n, own in found for k, rate in enumerate(own.exp().tolist())]
