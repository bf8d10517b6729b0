"""What a cell has learned so far, and its form in a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.inner_rates import fresh_rates
from reptile_scaling.learning.outer_optimizers import OUTER_OPTIMIZERS, Moments
from reptile_scaling.learning.outer_rates import first_rate_moments
from reptile_scaling.learning.workbench import Workbench, fresh_initialisation
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import HEAD_NAMES, LOG_RATE, LORA_A, LORA_B, Adapters

OUTER, INNER_SQUARE, INNER_STEPS = "outer_{name}/", "inner_square/", "inner_steps"
"""How a checkpoint names what belongs to θ's tensors."""


@dataclass(frozen=True)
class MetaState:
    """θ after `meta_step` meta-steps, and what the optimisers remember."""

    theta: Adapters
    """With the algorithm's own parameters, where it has any, and the log-rates of the inner loop, where they are
    learned."""
    outer_moments: Moments
    inner_moments: AdamMoments | None
    """Where the inner Adam goes on from task to task."""
    meta_step: int = 0

    @property
    def initialisation(self) -> Adapters:
        """What tasks start from: LoRA, head and learned rates, without what belongs to the algorithm."""
        own = {
            name: tensor
            for name, tensor in self.theta.tensors.items()
            if name.endswith((LORA_A, LORA_B, LOG_RATE)) or name in HEAD_NAMES
        }
        return Adapters(own)

    def tensors(self) -> dict[str, np.ndarray]:
        """All that `restored` needs, by name."""
        found = dict(self.theta.tensors)
        for name, moments in self.outer_moments.items():
            found |= _prefixed(OUTER.format(name=name), moments)
        if (inner := self.inner_moments) is not None:
            found |= _prefixed(INNER_SQUARE, inner.squares) | {INNER_STEPS: inner.steps}
        # Safetensors writes an array's memory as it lies, whatever its strides.
        return {name: tensor.contiguous().cpu().numpy() for name, tensor in found.items()}


def fresh_state(workbench: Workbench, seed: int) -> MetaState:
    """θ of this seed before the first meta-step."""
    config = workbench.config
    theta = fresh_initialisation(workbench, seed)
    inner_moments = AdamMoments.none_yet(theta) if config.keep_second_moments else None
    rates = fresh_rates(theta, ALGORITHMS[config.algorithm].adapts, config)
    if (own := ALGORITHMS[config.algorithm].own_parameters) is not None:
        extra = own(len(workbench.corpus.split.train), workbench.engine.backbone.width)
        device = workbench.engine.backbone.device
        theta = Adapters(theta.tensors | {name: tensor.to(device) for name, tensor in extra.items()})
    moments = {**OUTER_OPTIMIZERS[config.meta_optimizer].first_moments(theta), **first_rate_moments(rates)}
    return MetaState(Adapters(theta.tensors | rates), moments, inner_moments)


def restored(fresh: MetaState, meta_step: int, saved: Mapping[str, np.ndarray]) -> MetaState:
    """The state that was saved; `fresh` is the cell's own before its first step, and says what there is to read."""
    device = next(iter(fresh.theta.tensors.values())).device
    tensors = {name: torch.from_numpy(array).to(device) for name, array in saved.items()}

    def part(prefix: str, like: Adapters) -> Adapters:
        return Adapters({name: tensors[prefix + name] for name in like.tensors})

    outer = {name: part(OUTER.format(name=name), moments) for name, moments in fresh.outer_moments.items()}
    inner = fresh.inner_moments
    if inner is not None:
        inner = AdamMoments(part(INNER_SQUARE, inner.squares), tensors[INNER_STEPS])
    return MetaState(part("", fresh.theta), outer, inner, meta_step)


def _prefixed(prefix: str, adapters: Adapters) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in adapters.tensors.items()}
