"""First-order MAML (Finn, Abbeel & Levine 2017, arXiv:1703.03400, §5.2): the query gradient where adaptation ended."""

import torch

from reptile_scaling.adaptation import adapt
from reptile_scaling.algorithms.algorithm import MetaBatch, TaskGradients
from reptile_scaling.examples import Examples, query_examples
from reptile_scaling.model.adapters import Adapters, join_adapters
from reptile_scaling.model.encoder import PromptEncoder


def fomaml(encoder: PromptEncoder, batch: MetaBatch) -> TaskGradients:
    """∇L_query(φ_t) at φ_t: MAML's gradient with dφ_t/dθ taken as the identity."""
    adapted = adapt(encoder, batch.theta, batch.episodes, batch.loop, batch.rngs, batch.owners, batch.moments)

    def gradients_of(tasks: slice) -> Adapters:
        return gradient(
            query_examples(encoder, batch.episodes[tasks], batch.owners[tasks]), adapted.adapters.rows(tasks)
        )

    gradients = join_adapters(encoder.in_groups(gradients_of, len(batch.episodes)))
    return TaskGradients(gradients, adapted.losses, adapted.moments)


def gradient(examples: Examples, phi: Adapters) -> Adapters:
    """∇L_t(φ_t) of every task, `[T, …]`."""
    phi = phi.map(lambda tensor: tensor.detach().requires_grad_())
    losses_T = examples.losses(phi)
    return phi.like(torch.autograd.grad(losses_T.sum(), list(phi.tensors.values())))
