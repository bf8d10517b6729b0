"""The inner loop: T tasks adapted at once, each with its own parameters, gradient and optimiser state."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.learning.examples import Dropout, Examples, support_examples
from reptile_scaling.learning.inner_optimizers import InnerOptimizer, RatedOptimizer, make_optimizer
from reptile_scaling.learning.inner_rates import split_rates
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_NAMES, Adapters, join_adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS, logits, task_losses
from reptile_scaling.model.lanes import leave_if_abandoned
from reptile_scaling.model.stacked_lora import in_working_order


@dataclass(frozen=True)
class Adapted:
    """Parameters after the inner loop, `[T, …]`, and the support loss before each step, nats per utterance."""

    adapters: Adapters
    losses: Float[Tensor, "steps T"]
    """NaN for steps that were not taken."""
    moments: AdamMoments | None = None
    """Adam's, where the loop began with some."""


AfterStep = Callable[[int, Adapters], bool | None]
"""Told the number of steps taken and φ `[T, …]` before the first step and after each; φ goes on changing in place. The
loop ends where it answers True."""


def adapt(
    engine: Engine,
    batch: TaskBatch,
    after_step: AfterStep | None = None,
    directions: list[list[Tensor]] | None = None,
) -> Adapted:
    """Runs the inner loop of all tasks of a batch, in one group; `batch.theta` is left as it was.

    Where rates are learned, a list that is given as `directions` receives those of each step.
    """
    return adapt_support(support_examples(engine, batch), batch, after_step, directions)


def adapt_in_groups(engine: Engine, batch: TaskBatch) -> Adapted:
    """Runs the inner loop of every task, `engine.tasks_in_flight` at a time; grouping does not change the result."""
    engine.remember(batch.support_utterances())
    groups = engine.in_groups(lambda tasks: adapt(engine, batch.rows(tasks)), len(batch))
    return Adapted(
        join_adapters(g.adapters for g in groups),
        torch.cat([g.losses for g in groups], dim=1),
        AdamMoments.join_if_any([g.moments for g in groups]),
    )


def adapt_support(
    support: Examples,
    batch: TaskBatch,
    after_step: AfterStep | None = None,
    directions: list[list[Tensor]] | None = None,
) -> Adapted:
    """The inner loop on support sets already read; those of one task may have classes of different sizes."""
    loop = batch.loop
    theta, log_rates = split_rates(batch.theta)
    phi = first_parameters(support, theta, loop)
    if after_step is not None and after_step(0, phi):
        batch, loop = replace(batch, loop=replace(loop, steps=0)), replace(loop, steps=0)
    if loop.adapts == "head":
        return _adapt_heads(support, phi, log_rates, batch, after_step)
    phi = phi.map(lambda tensor: tensor.requires_grad_())
    optimizer = make_optimizer(loop.optimizer, phi, loop.learning_rate, batch.moments, log_rates)
    dropout = _dropout_streams(batch, support.labels_S.device)
    losses = support.labels_S.new_full((loop.steps, support.n_tasks), math.nan, dtype=torch.float32)
    for step, chosen in enumerate(mini_batches(support, batch)):
        losses[step] = _step(optimizer, phi, support.losses(phi, chosen, dropout))
        if directions is not None and isinstance(optimizer, RatedOptimizer):
            directions.append(optimizer.last_directions)
        if after_step is not None and after_step(step + 1, phi):
            break
    return Adapted(phi.map(lambda tensor: tensor.detach()), losses, optimizer.moments)


def _adapt_heads(
    support: Examples, phi: Adapters, log_rates: Adapters | None, batch: TaskBatch, after_step: AfterStep | None
) -> Adapted:
    """The head alone moves, so the features are computed once."""
    loop = batch.loop
    with torch.no_grad():
        features = support.features(phi)
    head = head_of(phi).map(lambda tensor: tensor.requires_grad_())
    optimizer = make_optimizer(loop.optimizer, head, loop.learning_rate, batch.moments, log_rates)
    losses = support.labels_S.new_full((loop.steps, support.n_tasks), math.nan, dtype=torch.float32)
    for step, chosen in enumerate(mini_batches(support, batch)):
        scores = logits(head, pick(features, chosen))
        losses[step] = _step(optimizer, head, task_losses(scores, support.labels(chosen)))
        if after_step is not None and after_step(step + 1, Adapters(phi.tensors | head.tensors)):
            break
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


def mini_batches(support: Examples, batch: TaskBatch) -> Iterator[Int[np.ndarray, "T b"] | None]:
    """Which utterances of each task's support set a step takes; None for all of them."""
    n_support, size = len(support.labels_S), batch.loop.batch_size
    for _ in range(batch.loop.steps):
        leave_if_abandoned()
        if size is None or size >= n_support:
            yield None
        else:
            assert batch.rngs is not None, "mini-batches need a stream per task"
            yield np.stack([rng.permutation(n_support)[:size] for rng in batch.rngs])


def head_of(adapters: Adapters) -> Adapters:
    """The head's tensors alone."""
    return Adapters({name: adapters.tensors[name] for name in HEAD_NAMES if name in adapters.tensors})


def pick(features_TSD: Float[Tensor, "T S D"], chosen: Int[np.ndarray, "T b"] | None) -> Float[Tensor, "T b D"]:
    """The features of a mini-batch of each task."""
    if chosen is None:
        return features_TSD
    rows = torch.from_numpy(chosen).to(features_TSD.device)
    return features_TSD.gather(1, rows[:, :, None].expand(-1, -1, features_TSD.shape[2]))


def _dropout_streams(batch: TaskBatch, device: torch.device) -> Dropout:
    if batch.loop.dropout == 0:
        return None
    assert batch.rngs is not None, "dropout needs a stream per task"
    return batch.loop.dropout, [torch.Generator(device).manual_seed(int(rng.integers(2**62))) for rng in batch.rngs]
