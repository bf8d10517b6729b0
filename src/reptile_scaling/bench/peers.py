"""The loop people write: PEFT, one task at a time, prompts padded to a rectangle, a stock torch optimiser.

The one slow truth: tests hold the engine against it, and it shares nothing with the engine but names of weights.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor

from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_WEIGHT, Adapters
from reptile_scaling.model.blocks import decoder_of
from reptile_scaling.model.peft_io import PEFT_PREFIX

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class PeerTask:
    """One task's support set as token ids and slots."""

    prompts: Sequence[Sequence[int]]
    slots: Sequence[int]


class SequentialPeft:
    """Adapts tasks one after another with PEFT."""

    def __init__(self, model: Any, lora: LoraConfig) -> None:
        lora.inference_mode, lora.base_model_name_or_path = False, None
        self._model = get_peft_model(model, lora)
        self._decoder = decoder_of(self._model.get_base_model())
        self._weights = {n: p for n, p in self._model.named_parameters() if p.requires_grad}

    def compile(self) -> None:
        """From now on by the code that `torch.compile` makes, for any shape."""
        self._decoder = torch.compile(self._decoder, dynamic=True)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The LoRA factors by the engine's names."""
        return ((_engine_name(name), weight) for name, weight in self._weights.items())

    def adapt(
        self,
        theta: Adapters,
        task: PeerTask,
        steps: int,
        make_optimizer: MakeOptimizer,
        pad_to: int | None = None,
    ) -> tuple[dict[str, Tensor], list[float]]:
        """Parameters of one task after the inner loop, by the engine's names, and the loss before each step."""
        head = self.load(theta)
        optimizer = make_optimizer([*self._weights.values(), *head.values()])
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            features = self.features(task.prompts, pad_to)
            scores = features @ head[HEAD_WEIGHT].T + head[HEAD_BIAS]
            loss = F.cross_entropy(scores, torch.tensor(task.slots, device=scores.device))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        adapted = {name: weight.detach().clone() for name, weight in self.named_weights()}
        return adapted | {name: tensor.detach() for name, tensor in head.items()}, losses

    def features(self, prompts: Sequence[Sequence[int]], pad_to: int | None = None) -> Tensor:
        """Last-token features `[S, D]` after the final norm, fp32; `pad_to` None pads to the longest prompt."""
        hidden, mask = self.hidden_states(prompts, pad_to)
        return hidden[torch.arange(len(prompts)), mask.sum(1) - 1].float()

    def hidden_states(self, prompts: Sequence[Sequence[int]], pad_to: int | None) -> tuple[Tensor, Tensor]:
        """Of a rectangle of prompts after the final norm, `[S, width, D]`, and which tokens are the prompts' own."""
        width = pad_to or max(map(len, prompts))
        device = self._model.device
        ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(list(prompt))
            mask[row, : len(prompt)] = 1
        hidden: Tensor = self._decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden, mask

    def load(self, theta: Adapters) -> dict[str, Tensor]:
        """Copies θ into the model; the head comes back as leaf tensors of its own."""
        with torch.no_grad():
            for name, weight in self.named_weights():
                weight.copy_(theta.tensors[name])
        return {name: theta.tensors[name].clone().requires_grad_() for name in (HEAD_WEIGHT, HEAD_BIAS)}


def _engine_name(peft_name: str) -> str:
    return peft_name.removeprefix(PEFT_PREFIX).replace(".default", "").removesuffix(".weight")
