"""First-order MAML (Finn, Abbeel & Levine 2017, arXiv:1703.03400, §5.2): the query gradient where adaptation ended."""

import torch

from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.examples import Examples, query_examples
from reptile_scaling.learning.inner_loop import adapt
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine


def task_gradients(engine: Engine, batch: TaskBatch) -> TaskGradients:
    """∇L_query(φ_t) at φ_t: MAML's gradient with dφ_t/dθ taken as the identity."""
    adapted = adapt(engine, batch)
    gradients = loss_gradient(query_examples(engine, batch), adapted.adapters)
    return TaskGradients(gradients, adapted.losses, adapted.moments)


def loss_gradient(examples: Examples, phi: Adapters) -> Adapters:
    """∇L_t(φ_t) of every task, `[T, …]`."""
    phi = phi.map(lambda tensor: tensor.detach().requires_grad_())
    losses_T = examples.losses(phi)
    return phi.like(torch.autograd.grad(losses_T.sum(), list(phi.tensors.values())))
