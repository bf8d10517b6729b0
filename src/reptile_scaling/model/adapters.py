"""The trainable parameters of one initialisation or of many tasks: LoRA factors and the head, by name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

LORA_A, LORA_B = ".lora_A", ".lora_B"
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
HEAD_LOG_SCALE = "head.log_scale"
"""Some heads have it: the logarithm of what their cosines, or their prototypes' logits, are multiplied by."""
HEAD_WORDS = "head.words"
"""Some heads have them: a vector of each class's words, whose product with a feature is added to its logit."""
LOG_RATE = ".log_rate"
"""Ends the names of learned inner rates, which θ holds beside the matrix they belong to: `[K]`, one for each step."""
HEAD_NAMES = (HEAD_WEIGHT, HEAD_BIAS, HEAD_LOG_SCALE, HEAD_WORDS)


@dataclass(frozen=True)
class Adapters:
    """Named fp32 tensors; either one set `[…]` or a stack of T sets `[T, …]`, the same for all of them.

    `<site>.lora_A [r, d_in]`, `<site>.lora_B [d_out, r]`, `head.weight [n_way, D]`, `head.bias [n_way]`,
    and of some heads `head.log_scale []` and `head.words [n_way, D]`.
    """

    tensors: dict[str, Tensor]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Adapters":
        """Every tensor changed by the same function."""
        return Adapters({name: change(tensor) for name, tensor in self.tensors.items()})

    def like(self, tensors: Iterable[Tensor]) -> "Adapters":
        """Other tensors under the same names, in their order."""
        return Adapters(dict(zip(self.tensors, tensors, strict=True)))

    def combine(self, other: "Adapters", rule: Callable[[Tensor, Tensor], Tensor]) -> "Adapters":
        """Tensor by tensor with another set of the same names."""
        assert self.tensors.keys() == other.tensors.keys(), (self.tensors.keys(), other.tensors.keys())
        return Adapters({name: rule(tensor, other.tensors[name]) for name, tensor in self.tensors.items()})

    def repeated(self, n_tasks: int) -> "Adapters":
        """One set `[…]` as a stack of `n_tasks` equal sets `[T, …]`."""
        return self.map(lambda tensor: tensor.expand(n_tasks, *tensor.shape))

    def rows(self, tasks: slice) -> "Adapters":
        """Some sets of a stack, as a stack."""
        return self.map(lambda tensor: tensor[tasks])

    def mean(self) -> "Adapters":
        """A stack `[T, …]` as one set, its mean over tasks."""
        return self.map(lambda tensor: tensor.mean(0))

    def is_finite(self) -> bool:
        """Whether no parameter is NaN or infinite; waits for the device once."""
        return bool(torch.stack([tensor.isfinite().all() for tensor in self.tensors.values()]).all())


def stack_adapters(sets: Iterable[Adapters]) -> Adapters:
    """Single sets `[…]` as one stack `[T, …]`."""
    sets = list(sets)
    return Adapters({name: torch.stack([s.tensors[name] for s in sets]) for name in sets[0].tensors})


def join_adapters(stacks: Iterable[Adapters]) -> Adapters:
    """Stacks `[T_i, …]` one after another as `[ΣT_i, …]`."""
    stacks = list(stacks)
    return Adapters({name: torch.cat([s.tensors[name] for s in stacks]) for name in stacks[0].tensors})
