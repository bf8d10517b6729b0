"""Reptile (Nichol, Achiam & Schulman 2018, arXiv:1803.02999): move the initialisation towards adapted parameters."""

import torch

from reptile_scaling.adaptation import adapt
from reptile_scaling.algorithms.algorithm import MetaBatch, TaskGradients
from reptile_scaling.model.encoder import PromptEncoder


def reptile(encoder: PromptEncoder, batch: MetaBatch) -> TaskGradients:
    """θ − φ_t stands for task t's gradient; φ_t is θ after the inner loop on its support set.

    A meta-step of ε against their mean is Algorithm 2, θ ← θ + ε · mean_t (φ_t − θ); one task and ε = 1 give φ_t.
    """
    adapted = adapt(encoder, batch.theta, batch.episodes, batch.loop, batch.rngs, batch.owners, batch.moments)
    return TaskGradients(batch.theta.combine(adapted.adapters, torch.sub), adapted.losses, adapted.moments)
