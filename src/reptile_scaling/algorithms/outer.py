"""The outer optimiser: θ moves against the mean of its tasks' gradients."""

from dataclasses import dataclass

from reptile_scaling.model.adapters import Adapters

# Adam's usual settings (Kingma & Ba 2015, arXiv:1412.6980), as MAML's outer loop uses them.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class OuterMoments:
    """Adam's running means of the gradient and of its square."""

    mean: Adapters
    square: Adapters


def outer_sgd(theta: Adapters, gradient: Adapters, meta_lr: float) -> Adapters:
    """θ − meta_lr · gradient."""
    return theta.combine(gradient, lambda x, g: x - meta_lr * g)


def outer_adam(
    theta: Adapters, gradient: Adapters, moments: OuterMoments, meta_lr: float, steps_before: int
) -> tuple[Adapters, OuterMoments]:
    """One step of Adam after `steps_before` others."""
    mean = moments.mean.combine(gradient, lambda m, g: BETA1 * m + (1 - BETA1) * g)
    square = moments.square.combine(gradient, lambda v, g: BETA2 * v + (1 - BETA2) * g * g)
    n = steps_before + 1
    direction = mean.combine(square, lambda m, v: (m / (1 - BETA1**n)) / ((v / (1 - BETA2**n)).sqrt() + EPSILON))
    return outer_sgd(theta, direction, meta_lr), OuterMoments(mean, square)
