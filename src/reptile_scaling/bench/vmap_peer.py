"""The strongest loop one can write in torch alone: LoRA of all tasks through `torch.func.vmap`, padded to the batch.

Functional calls of the Hub's own model: hooks add each task's low-rank path, `vmap` carries the tasks through one
forward and backward. Nothing is shared with the engine but names of weights.

Suffixes: T tasks · S prompts · L places of the longest prompt.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reptile_scaling.bench.peers import MakeOptimizer, PeerTask
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_WEIGHT, LORA_A, LORA_B, Adapters
from reptile_scaling.model.blocks import decoder_of


class VmapLora:
    """Adapts T tasks of as many prompts at once."""

    def __init__(self, model: Any, sites: Sequence[str], scale: float) -> None:
        model.set_attn_implementation("eager")  # sdpa asks masks for their values, which vmap cannot tell
        self._decoder = decoder_of(model)
        self._dtype = next(model.parameters()).dtype
        self._own: dict[str, Tensor] = {}
        for site in sites:
            model.get_submodule(site).register_forward_hook(partial(self._add_low_rank, site, scale))

    def adapt(
        self, theta: Adapters, tasks: Sequence[PeerTask], steps: int, make_optimizer: MakeOptimizer
    ) -> list[list[float]]:
        """Each task's support losses, step by step; `theta` is one set `[…]`."""
        variables = {
            name: tensor.expand(len(tasks), *tensor.shape).clone().requires_grad_()
            for name, tensor in theta.tensors.items()
        }
        optimizer = make_optimizer(variables.values())
        batch = _rectangles(tasks, self._dtype)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            losses_T = torch.func.vmap(self._loss)(variables, *batch)
            losses_T.sum().backward()
            optimizer.step()
            losses.append(losses_T.detach())
        return [[float(x) for x in row] for row in torch.stack(losses, 1)]

    def _loss(self, own: dict[str, Tensor], ids_SL: Tensor, hidden: Tensor, last_S: Tensor, slots_S: Tensor) -> Tensor:
        """Of one task."""
        self._own = own
        positions = torch.arange(ids_SL.shape[1])[None]
        states_SLD = self._decoder(
            input_ids=ids_SL, attention_mask=hidden, position_ids=positions, use_cache=False
        ).last_hidden_state
        features = states_SLD.gather(1, last_S[:, None, None].expand(-1, 1, states_SLD.shape[2]))[:, 0]
        return F.cross_entropy(features @ own[HEAD_WEIGHT].T + own[HEAD_BIAS], slots_S)

    def _add_low_rank(
        self, site: str, scale: float, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        A, B = self._own[site + LORA_A], self._own[site + LORA_B]
        return output + scale * (inputs[0] @ A.T) @ B.T


def _rectangles(tasks: Sequence[PeerTask], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token ids `[T, S, L]`, what is added to the scores `[T, S, 1, L, L]`, last places and slots `[T, S]`."""
    width = max(len(prompt) for task in tasks for prompt in task.prompts)
    lengths_TS = torch.tensor([[len(prompt) for prompt in task.prompts] for task in tasks])
    ids_TSL = torch.tensor([[[*prompt, *[0] * (width - len(prompt))] for prompt in task.prompts] for task in tasks])
    seen_LL = torch.ones(width, width, dtype=torch.bool).tril()
    # A causal mask alone: no token that counts comes after the padding.
    hidden_LL = torch.zeros(width, width, dtype=dtype).masked_fill(~seen_LL, torch.finfo(dtype).min)
    hidden = hidden_LL.expand(*lengths_TS.shape, 1, width, width)
    return ids_TSL, hidden, lengths_TS - 1, torch.tensor([list(task.slots) for task in tasks])
