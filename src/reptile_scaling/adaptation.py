"""The inner loop: T tasks adapted at once, each with its own parameters, gradient and optimiser state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.data.episodes import Episode
from reptile_scaling.examples import Dropout, Examples, support_examples
from reptile_scaling.inner_optimizers import InnerOptimizer, make_optimizer
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_WEIGHT, Adapters, join_adapters
from reptile_scaling.model.encoder import PromptEncoder
from reptile_scaling.model.heads import HEADS, logits, task_losses
from reptile_scaling.model.lanes import leave_if_abandoned
from reptile_scaling.model.stacked_lora import in_working_order


@dataclass(frozen=True)
class InnerLoop:
    """The settings of one adaptation."""

    steps: int
    learning_rate: float
    optimizer: str = "adam"
    batch_size: int | None = None
    """Support utterances per step; None takes all of them."""
    dropout: float = 0.0
    head: str = "classifier"
    adapts: Literal["all", "head"] = "all"
    """Which parameters move: LoRA and head, or the head alone."""


@dataclass(frozen=True)
class Adapted:
    """Parameters after the inner loop, `[T, …]`, and the support loss before each step, nats per utterance."""

    adapters: Adapters
    losses: Float[Tensor, "steps T"]
    moments: AdamMoments | None = None
    """Adam's, where the loop began with some."""


def adapt(
    encoder: PromptEncoder,
    theta: Adapters,
    episodes: Sequence[Episode],
    loop: InnerLoop,
    rngs: Sequence[np.random.Generator] | None = None,
    owners: Sequence[int] | None = None,
    moments: AdamMoments | None = None,
) -> Adapted:
    """Runs the inner loop of every episode from its own start `theta[t]`, `encoder.tasks_in_flight` at a time.

    `theta` is a stack `[T, …]` and is left as it was. `rngs`, one per task, draw mini-batches and dropout; they are
    needed only where `loop` uses them. `owners` are the cells the tasks belong to, rising; a cell that diverges
    leaves the others untouched. `moments [T, …]` let Adam go on where it was. The result does not depend on how tasks
    are grouped.
    """
    encoder.remember(np.concatenate([episode.support.ravel() for episode in episodes]))
    owners = owners if owners is not None else [0] * len(episodes)

    def adapt_tasks(tasks: slice) -> Adapted:
        support = support_examples(encoder, episodes[tasks], owners[tasks])
        own_rngs = rngs[tasks] if rngs is not None else ()
        own_moments = moments.rows(tasks) if moments is not None else None
        return _adapt_group(support, theta.rows(tasks), loop, own_rngs, own_moments)

    groups = encoder.in_groups(adapt_tasks, len(episodes))
    return Adapted(
        join_adapters(g.adapters for g in groups),
        torch.cat([g.losses for g in groups], dim=1),
        AdamMoments.join([g.moments for g in groups if g.moments is not None]) if moments is not None else None,
    )


def adapt_to_support(
    encoder: PromptEncoder,
    theta: Adapters,
    utterances: Int[np.ndarray, "S"],
    labels: Int[np.ndarray, "S"],
    loop: InnerLoop,
    rng: np.random.Generator,
    moments: AdamMoments | None = None,
) -> Adapted:
    """The inner loop of one task whose classes may have different numbers of shots, from `theta [1, …]`."""
    encoder.remember(utterances)
    support = Examples(encoder, [utterances], torch.from_numpy(labels).to(encoder.backbone.device))
    return _adapt_group(support, theta, loop, [rng], moments)


def _adapt_group(
    support: Examples,
    theta: Adapters,
    loop: InnerLoop,
    rngs: Sequence[np.random.Generator],
    moments: AdamMoments | None,
) -> Adapted:
    phi = first_parameters(support, theta, loop)
    if loop.adapts == "head":
        return _adapt_heads(support, phi, loop, rngs, moments)
    phi = phi.map(lambda tensor: tensor.requires_grad_())
    optimizer = make_optimizer(loop.optimizer, phi, loop.learning_rate, moments)
    dropout = _dropout_streams(loop, rngs, support.labels_S.device)
    losses = support.labels_S.new_empty(loop.steps, support.n_tasks, dtype=torch.float32)
    for step, chosen in enumerate(mini_batches(support, loop, rngs)):
        losses[step] = _step(optimizer, phi, support.losses(phi, chosen, dropout))
    return Adapted(phi.map(lambda tensor: tensor.detach()), losses, optimizer.moments)


def _adapt_heads(
    support: Examples,
    phi: Adapters,
    loop: InnerLoop,
    rngs: Sequence[np.random.Generator],
    moments: AdamMoments | None,
) -> Adapted:
    """The head alone moves, so the features are computed once."""
    with torch.no_grad():
        features = support.features(phi)
    head = head_of(phi).map(lambda tensor: tensor.requires_grad_())
    optimizer = make_optimizer(loop.optimizer, head, loop.learning_rate, moments)
    losses = support.labels_S.new_empty(loop.steps, support.n_tasks, dtype=torch.float32)
    for step, chosen in enumerate(mini_batches(support, loop, rngs)):
        scores = logits(head, pick(features, chosen))
        losses[step] = _step(optimizer, head, task_losses(scores, support.labels(chosen)))
    adapted = phi.tensors | head.map(lambda tensor: tensor.detach()).tensors
    return Adapted(Adapters(adapted), losses, optimizer.moments)


def _step(optimizer: InnerOptimizer, phi: Adapters, losses_T: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
    """One step of all tasks along the gradients of their own losses; these losses."""
    # Each task's loss depends on its own parameters alone, so the gradient of the sum is every task's own.
    optimizer.step(torch.autograd.grad(losses_T.sum(), list(phi.tensors.values())))
    return losses_T.detach()


def first_parameters(support: Examples, theta: Adapters, loop: InnerLoop) -> Adapters:
    """A copy of θ `[T, …]` to be adapted, under heads computed from the support sets where `loop.head` says so."""
    phi = in_working_order(theta)
    if (head_from := HEADS[loop.head].from_support) is None:
        return phi
    with torch.no_grad():
        return Adapters(
            phi.tensors | head_from(support.features(phi), support.labels_S, phi.tensors[HEAD_BIAS].shape[1])
        )


def mini_batches(
    support: Examples, loop: InnerLoop, rngs: Sequence[np.random.Generator]
) -> Iterator[Int[np.ndarray, "T b"] | None]:
    """Which utterances of each task's support set a step takes; None for all of them."""
    n_support = len(support.labels_S)
    for _ in range(loop.steps):
        leave_if_abandoned()
        if loop.batch_size is None or loop.batch_size >= n_support:
            yield None
        else:
            yield np.stack([rng.permutation(n_support)[: loop.batch_size] for rng in rngs])


def head_of(adapters: Adapters) -> Adapters:
    """The head's tensors alone."""
    return Adapters({name: adapters.tensors[name] for name in (HEAD_WEIGHT, HEAD_BIAS)})


def pick(features_TSD: Float[Tensor, "T S D"], chosen: Int[np.ndarray, "T b"] | None) -> Float[Tensor, "T b D"]:
    """The features of a mini-batch of each task."""
    if chosen is None:
        return features_TSD
    rows = torch.from_numpy(chosen).to(features_TSD.device)
    return features_TSD.gather(1, rows[:, :, None].expand(-1, -1, features_TSD.shape[2]))


def _dropout_streams(loop: InnerLoop, rngs: Sequence[np.random.Generator], device: torch.device) -> Dropout:
    if loop.dropout == 0:
        return None
    return loop.dropout, [torch.Generator(device).manual_seed(int(rng.integers(2**62))) for rng in rngs]
