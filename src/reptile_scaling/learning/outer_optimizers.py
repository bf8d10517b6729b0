"""How θ moves against its tasks' gradients. A new outer optimiser is a class here and a line in OUTER_OPTIMIZERS."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from reptile_scaling.learning.algorithms.reptile import outer_step
from reptile_scaling.model.adapters import Adapters

Moments = Mapping[str, Adapters]
"""What an optimiser remembers of earlier gradients, by name; sets of θ's own shapes `[…]`, saved with it."""


class OuterOptimizer(Protocol):
    """Moves θ `[…]` against the gradients `[T, …]` of its tasks, after `steps_before` other steps."""

    def first_moments(self, theta: Adapters) -> Moments: ...
    def step(
        self, theta: Adapters, gradients: Adapters, moments: Moments, meta_lr: float, steps_before: int
    ) -> tuple[Adapters, Moments]: ...


@dataclass(frozen=True)
class Sgd:
    """θ − meta_lr · mean gradient: with Reptile's gradients the published update, meta_lr being its ε."""

    def first_moments(self, theta: Adapters) -> Moments:
        return {}

    def step(
        self, theta: Adapters, gradients: Adapters, moments: Moments, meta_lr: float, steps_before: int
    ) -> tuple[Adapters, Moments]:
        return outer_step(theta, gradients.mean(), meta_lr), moments


@dataclass(frozen=True)
class Adam:
    """Adam with its usual settings (Kingma & Ba 2015, arXiv:1412.6980), as MAML's outer loop uses it."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def first_moments(self, theta: Adapters) -> Moments:
        zeros = theta.map(torch.zeros_like)
        return {"mean": zeros, "square": zeros}

    def step(
        self, theta: Adapters, gradients: Adapters, moments: Moments, meta_lr: float, steps_before: int
    ) -> tuple[Adapters, Moments]:
        gradient, n = gradients.mean(), steps_before + 1
        mean = moments["mean"].combine(gradient, lambda m, g: self.beta1 * m + (1 - self.beta1) * g)
        square = moments["square"].combine(gradient, lambda v, g: self.beta2 * v + (1 - self.beta2) * g * g)
        direction = mean.combine(
            square,
            lambda m, v: (m / (1 - self.beta1**n)) / ((v / (1 - self.beta2**n)).sqrt() + self.epsilon),
        )
        return outer_step(theta, direction, meta_lr), {"mean": mean, "square": square}


OUTER_OPTIMIZERS: dict[str, OuterOptimizer] = {"sgd": Sgd(), "adam": Adam()}
