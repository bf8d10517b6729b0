"""MAML (Finn, Abbeel & Levine 2017, arXiv:1703.03400): the query loss differentiated through the inner loop, exactly.

The inner loop is φ_{k+1} = φ_k − α ∇L(φ_k). With v = dL_query/dφ_K, going back over its steps gives
dL_query/dφ_k = v − α ∇²L(φ_k) v. A Hessian-vector product needs one step's activations at a time, so memory does not
grow with the number of steps, as it would if the whole loop were kept for autograd. Learned rates put an α_k for each
matrix in α's place, and dL_query/d log α_k = −α_k ⟨v, ∇L(φ_k)⟩ with the v that step k is met with on the way back.
"""

import numpy as np
import torch

from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.examples import Examples, loss_gradient, query_examples, support_examples
from reptile_scaling.learning.inner_loop import first_parameters, mini_batches
from reptile_scaling.learning.inner_rates import first_order, rates_of_step, scaled, split_rates
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.model.adapters import HEAD_BIAS, Adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS

SECOND_ORDER_FACTOR = 4
"""Memory of a Hessian-vector product in that of a gradient: 2.8 in live tensors with six adapted layers of SmolLM2,
which a test counts. The resident set was 3.6 to 4.3 times a gradient's; a plan has slack for the heap in it."""


def task_gradients(engine: Engine, batch: TaskBatch) -> TaskGradients:
    """d/dθ of L_query(φ_t(θ)): the inner loop there, and back over its steps."""
    support, query, loop = support_examples(engine, batch), query_examples(engine, batch), batch.loop
    theta, log_rates = split_rates(batch.theta)
    phi = first_parameters(support, theta, loop)
    trail: list[tuple[Adapters, Adapters, np.ndarray | None]] = []
    losses = []
    for chosen in mini_batches(support, batch):
        variables = phi.map(lambda tensor: tensor.detach().requires_grad_())
        losses_T = support.losses(variables, chosen)
        step = phi.like(torch.autograd.grad(losses_T.sum(), list(variables.tensors.values())))
        trail.append((phi, step, chosen))
        phi = phi.combine(scaled(step, loop, log_rates, len(trail) - 1), torch.sub)
        losses.append(losses_T.detach())
    back = loss_gradient(query, phi)
    slopes: list[dict[str, torch.Tensor]] = []
    for k, (phi, step, chosen) in reversed(list(enumerate(trail))):
        if log_rates is not None:
            slopes.insert(0, first_order(back, [list(step.tensors.values())], rates_of_step(log_rates, k)))
        bend = hessian_times(support, phi, chosen, scaled(back, loop, log_rates, k))
        back = back.combine(bend, torch.sub)
    back = _through_head(support, theta, loop, back)
    by_rate = {name: torch.cat([own[name] for own in slopes], dim=1) for name in (slopes[0] if slopes else ())}
    return TaskGradients(Adapters(back.tensors | by_rate), torch.stack(losses))


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
