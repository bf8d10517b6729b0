"""Reptile (Nichol, Achiam & Schulman 2018, arXiv:1803.02999): move the initialisation towards adapted parameters.

Algorithm 2 in two lines: a task's gradient is `reptile(θ, φ_t) = θ − φ_t`, and `outer_step` against the mean of the
tasks' gradients gives θ ← θ + ε · mean_t (φ_t − θ).
"""

import torch
from torch import Tensor

from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.examples import loss_gradient, query_examples
from reptile_scaling.learning.inner_loop import adapt
from reptile_scaling.learning.inner_rates import first_order, split_rates
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine


def reptile(theta: Adapters, adapted: Adapters) -> Adapters:
    """θ − φ_t, which stands for task t's gradient; φ_t `[T, …]` is θ `[T, …]` after the inner loop on its support set.

    Tasks whose φ_t is not finite are the trainer's to notice.
    """
    return theta.combine(adapted, torch.sub)


def outer_step(theta: Adapters, gradient: Adapters, meta_lr: float) -> Adapters:
    """θ − meta_lr · gradient, all `[…]`. Of one task's Reptile gradient with meta_lr = 1 it is φ."""
    return theta.combine(gradient, lambda x, g: x - meta_lr * g)


def task_gradients(engine: Engine, batch: TaskBatch) -> TaskGradients:
    """Reptile's gradient of every task of the batch; query sets are read for learned rates alone."""
    directions: list[list[Tensor]] = []
    adapted = adapt(engine, batch, directions=directions)
    theta, log_rates = split_rates(batch.theta)
    gradients = reptile(theta, adapted.adapters)
    if log_rates is not None:
        at_end = loss_gradient(query_examples(engine, batch), adapted.adapters)
        gradients = Adapters(gradients.tensors | first_order(at_end, directions, log_rates))
    return TaskGradients(gradients, adapted.losses, adapted.moments)
