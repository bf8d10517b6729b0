"""Prototypical networks (Snell, Swersky & Zemel 2017, arXiv:1703.05175): episodes teach a metric, no inner loop.

A task's head is computed from its support features, and the query loss under it is differentiated through both sets.
What is learned holds for any number of classes and shots, and inner steps may still start from the prototypes.
"""

import torch

from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.examples import query_examples, support_examples
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS


def task_gradients(engine: Engine, batch: TaskBatch) -> TaskGradients:
    """d/dθ of the query loss under the head that the support set gives, through support and query features."""
    head_from = HEADS[batch.loop.head].from_support
    assert head_from is not None, batch.loop.head
    support, query = support_examples(engine, batch), query_examples(engine, batch)
    theta = batch.theta.map(lambda tensor: tensor.detach().clone().requires_grad_())
    head = head_from(support.features(theta), support.labels_S, len(batch.episodes[0].classes))
    losses_T = query.losses(Adapters(theta.tensors | head))
    # θ's own head stays as it is: no task starts from it.
    found = torch.autograd.grad(losses_T.sum(), list(theta.tensors.values()), materialize_grads=True)
    return TaskGradients(theta.like(found), losses_T.detach()[None])
