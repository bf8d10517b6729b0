"""ANIL (Raghu et al. 2020, arXiv:1909.09157): the inner loop moves the head alone, the outer loop everything."""

import torch

from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.examples import query_examples, support_examples
from reptile_scaling.learning.inner_loop import head_of, mini_batches, pick
from reptile_scaling.learning.inner_rates import scaled, split_rates
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.model.adapters import HEAD_BIAS, Adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS, logits, task_losses


def task_gradients(engine: Engine, batch: TaskBatch) -> TaskGradients:
    """d/dθ of L_query after the head's inner loop, second derivatives included.

    The features do not move in the inner loop, so one forward and one backward of the model serve all its steps.
    """
    support, query = support_examples(engine, batch), query_examples(engine, batch)
    theta = batch.theta.map(lambda tensor: tensor.detach().clone().requires_grad_())
    features = support.features(theta)
    head, losses = head_of(theta), []
    if (head_from := HEADS[batch.loop.head].from_support) is not None:
        first = Adapters(head_from(features, support.labels_S, head.tensors[HEAD_BIAS].shape[1]))
        # What is constant in them, as a bias of zeros, still moves in the inner loop.
        head = Adapters(head.tensors | first.map(lambda tensor: tensor.requires_grad_()).tensors)
    _, log_rates = split_rates(theta)
    for k, chosen in enumerate(mini_batches(support, batch)):
        losses_T = task_losses(logits(head, pick(features, chosen)), support.labels(chosen))
        slopes = torch.autograd.grad(losses_T.sum(), list(head.tensors.values()), create_graph=True)
        head = head.combine(scaled(head.like(slopes), batch.loop, log_rates, k), torch.sub)
        losses.append(losses_T.detach())
    query_losses_T = task_losses(logits(head, query.features(theta)), query.labels())
    variables = list(theta.tensors.values())
    # A head that is not θ's own has no part in the loss.
    found = torch.autograd.grad(query_losses_T.sum(), variables, materialize_grads=True)
    return TaskGradients(theta.like(found), torch.stack(losses))
