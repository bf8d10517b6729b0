"""MAML (Finn, Abbeel & Levine 2017, arXiv:1703.03400): the query loss differentiated through the inner loop, exactly.

The inner loop is φ_{k+1} = φ_k − α ∇L(φ_k). With v = dL_query/dφ_K, going back over its steps gives
dL_query/dφ_k = v − α ∇²L(φ_k) v. A Hessian-vector product needs one step's activations at a time, so memory does not
grow with the number of steps, as it would if the whole loop were kept for autograd.
"""

import numpy as np
import torch

from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.algorithms.fomaml import loss_gradient
from reptile_scaling.learning.examples import Examples, query_examples, support_examples
from reptile_scaling.learning.inner_loop import first_parameters, mini_batches
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.model.adapters import HEAD_BIAS, Adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS

SECOND_ORDER_FACTOR = 4
"""Memory of a Hessian-vector product in that of a gradient: 3.5 with six adapted layers of SmolLM2, which a test
measures, 3.9 with all thirty; rounded up."""


def task_gradients(engine: Engine, batch: TaskBatch) -> TaskGradients:
    """d/dθ of L_query(φ_t(θ)): the inner loop there, and back over its steps."""
    support, query, loop = support_examples(engine, batch), query_examples(engine, batch), batch.loop
    phi = first_parameters(support, batch.theta, loop)
    trail: list[tuple[Adapters, np.ndarray | None]] = []
    losses = []
    for chosen in mini_batches(support, batch):
        trail.append((phi, chosen))
        variables = phi.map(lambda tensor: tensor.detach().requires_grad_())
        losses_T = support.losses(variables, chosen)
        step = phi.like(torch.autograd.grad(losses_T.sum(), list(variables.tensors.values())))
        phi = phi.combine(step, lambda x, g: x - loop.learning_rate * g)
        losses.append(losses_T.detach())
    back = loss_gradient(query, phi)
    for phi, chosen in reversed(trail):
        bend = hessian_times(support, phi, chosen, back)
        back = back.combine(bend, lambda v, hv: v - loop.learning_rate * hv)
    return TaskGradients(_through_head(support, batch.theta, loop, back), torch.stack(losses))


def hessian_times(support: Examples, phi: Adapters, chosen: np.ndarray | None, vector: Adapters) -> Adapters:
    """∇²L_t(φ_t) v_t of every task, `[T, …]`."""
    phi = phi.map(lambda tensor: tensor.detach().requires_grad_())
    variables = list(phi.tensors.values())
    slopes = torch.autograd.grad(support.losses(phi, chosen).sum(), variables, create_graph=True)
    along = torch.stack([(g * vector.tensors[name]).sum() for name, g in zip(phi.tensors, slopes, strict=True)]).sum()
    return phi.like(torch.autograd.grad(along, variables))


def _through_head(support: Examples, theta: Adapters, loop: InnerLoop, back: Adapters) -> Adapters:
    """Where the first head was computed from the support features, its gradient passes on to what made them."""
    if (head_from := HEADS[loop.head].from_support) is None:
        return back
    start = theta.map(lambda tensor: tensor.detach().requires_grad_())
    n_way = theta.tensors[HEAD_BIAS].shape[1]
    head = head_from(support.features(start), support.labels_S, n_way)
    along = torch.stack([(tensor * back.tensors[name]).sum() for name, tensor in head.items()]).sum()
    own = {name: tensor for name, tensor in start.tensors.items() if name not in head}
    passed_on = torch.autograd.grad(along, list(own.values()), materialize_grads=True)
    return Adapters(back.tensors | {name: back.tensors[name] + g for name, g in zip(own, passed_on, strict=True)})
