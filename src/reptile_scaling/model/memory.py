"""How much memory adaptation takes: a formula from the model's own shapes, and how many tasks it allows at once.

    program + weights + cache + 2 · adapter · tasks of a meta-step
            + in flight · slack · (2.5 · adapter + activations · tokens)

The tasks of a whole meta-step keep their start and their result; those in flight also Adam's two moments and a scaled
copy of B. Activations are what autograd keeps for the backward and what a batch keeps for its next forward, counted
once on a short one, so any architecture gives its own figure. `slack` is what an allocator takes beyond what it is
asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.backbone import Backbone
from reptile_scaling.model.devices import free_memory, held_memory, is_accelerator, resident_bytes
from reptile_scaling.model.packed_forward import PlacedBatch
from reptile_scaling.model.packing import PackedTokens, pack_tokens

# What of the free memory a run plans with: allocators fragment, and other programs live beside it.
USABLE_SHARE = 0.8
PROBED_PROMPTS = 8
# glibc's heap over the sum of live tensors: `bench` shows both. Assumed for an accelerator's allocator.
HOST_SLACK, ACCELERATOR_SLACK = 1.4, 1.1


@dataclass(frozen=True)
class MemoryNeed:
    """The terms of the formula, in bytes."""

    program: int
    """Interpreter and libraries; on the CPU only."""
    weights: int
    cache: int
    """The prefix cache once it holds every utterance."""
    adapter: int
    """One set of LoRA factors and head, fp32."""
    tokens_per_task: float
    """Support tokens of a task, on average."""
    activations_per_token: float
    slack: float

    @property
    def per_task_in_flight(self) -> float:
        """Adapting one more task at once."""
        return self.slack * (2.5 * self.adapter + self.activations_per_token * self.tokens_per_task)

    def peak(self, tasks_per_step: int, in_flight: int) -> float:
        """The whole process's need, of a meta-step with so many tasks, `in_flight` of them at once."""
        kept = 2 * self.adapter * tasks_per_step
        return (
            self.program + self.weights + self.cache + kept + min(in_flight, tasks_per_step) * self.per_task_in_flight
        )

    def tasks_within(self, budget: float, tasks_per_step: int) -> int:
        """How many tasks in flight fit a budget; at least one, since less is not possible."""
        room = budget - self.peak(tasks_per_step, 0)
        return max(1, int(room // self.per_task_in_flight))

    def sentence(self, tasks_per_step: int, in_flight: int) -> str:
        """The formula with its figures, for people."""
        in_flight = min(in_flight, tasks_per_step)
        return (
            f"memory: program {amount(self.program)} + weights {amount(self.weights)} "
            f"+ cache {amount(self.cache)} + {tasks_per_step} tasks a step × {amount(2 * self.adapter)} "
            f"+ {in_flight} in flight × {amount(self.per_task_in_flight)} "
            f"({self.tokens_per_task:.0f} tokens × {self.activations_per_token / 1e3:.0f} kB, "
            f"allocator × {self.slack}) "
            f"= {amount(self.peak(tasks_per_step, in_flight))}"
        )


def amount(n_bytes: float | int) -> str:
    """`1.25 GB`, or `3.4 MB` below a tenth of that."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def memory_need(
    backbone: Backbone, theta: Adapters, token_ids: Sequence[Sequence[int]], prompts_per_task: int
) -> MemoryNeed:
    """The formula's terms for tasks of so many support prompts, without a prefix cache."""
    lengths = np.array([len(ids) for ids in token_ids])
    weights = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    on_host = not is_accelerator(backbone.device)
    return MemoryNeed(
        program=max(0, resident_bytes() - weights) if on_host else 0,
        weights=weights,
        cache=0,
        adapter=sum(tensor.numel() * tensor.element_size() for tensor in theta.tensors.values()),
        tokens_per_task=float(lengths.mean()) * prompts_per_task,
        activations_per_token=saved_bytes(backbone, theta, _typical(token_ids, lengths)),
        slack=HOST_SLACK if on_host else ACCELERATOR_SLACK,
    )


def _typical(token_ids: Sequence[Sequence[int]], lengths: np.ndarray) -> PackedTokens:
    """Prompts spread evenly over the data set's lengths."""
    by_length = np.argsort(lengths, kind="stable")
    return pack_tokens(token_ids, [by_length[np.linspace(0, len(by_length) - 1, PROBED_PROMPTS).astype(int)]])


def saved_bytes(backbone: Backbone, theta: Adapters, packed: PackedTokens) -> float:
    """Bytes per token that a task's forward keeps for its backward and the next forward, each storage counted once."""
    placed = backbone.place(packed)
    entering = backbone.entering_activations(placed) if backbone.first_adapted > 0 else None
    variables = theta.repeated(1).map(lambda tensor: tensor.detach().clone().requires_grad_())
    known = {tensor.untyped_storage().data_ptr() for tensor in [*variables.tensors.values(), *backbone.model.buffers()]}
    known |= {parameter.untyped_storage().data_ptr() for parameter in backbone.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = backbone.features(placed, variables, entering_P=entering)
    del features
    if isinstance(placed, PlacedBatch):
        for tensor in placed.kept_tensors:
            keep(tensor)
    return sum(kept.values()) / len(packed.token_ids)


def usable_memory(device: torch.device) -> float:
    """Bytes this process may grow to by default: what it holds on a device, and most of what is free there."""
    return held_memory(device) + USABLE_SHARE * free_memory(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller groups of tasks may help."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's allocator on the CPU


def is_device_lost(error: BaseException) -> bool:
    """Whether this process can no longer use its GPU: only a new one can, or another device."""
    return isinstance(error, torch.AcceleratorError)
