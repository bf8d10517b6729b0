"""The inner loop: T tasks adapted at once, each with its own parameters, gradient and optimiser state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.config import Config
from reptile_scaling.model.adapters import HEAD_BIAS, Adapters, join_adapters
from reptile_scaling.model.encoder import PromptEncoder
from reptile_scaling.model.heads import HEADS, logits, task_losses
from reptile_scaling.model.lanes import leave_if_abandoned
from reptile_scaling.model.stacked_lora import in_working_order
from reptile_scaling.tasks import Episode

# β1 = 0 as in Nichol et al. 2018, §6: momentum would carry the last task's direction into few, short steps.
ADAM_BETA2, ADAM_EPSILON = 0.999, 1e-8


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


def training_loop(config: Config) -> InnerLoop:
    """The inner loop of meta-training."""
    return InnerLoop(
        steps=config.k_inner,
        learning_rate=config.inner_lr,
        optimizer=config.inner_optimizer,
        batch_size=config.inner_batch_size,
        dropout=config.lora_dropout,
        head=config.head,
    )


@dataclass(frozen=True)
class Adapted:
    """Parameters after the inner loop, `[T, …]`, and the support loss before each step, nats per utterance."""

    adapters: Adapters
    losses: Float[Tensor, "steps T"]


def adapt(
    encoder: PromptEncoder,
    theta: Adapters,
    episodes: Sequence[Episode],
    loop: InnerLoop,
    rngs: Sequence[np.random.Generator] | None = None,
    owners: Sequence[int] | None = None,
) -> Adapted:
    """Runs the inner loop of every episode from its own start `theta[t]`, `encoder.tasks_in_flight` at a time.

    `theta` is a stack `[T, …]` and is left as it was. `rngs`, one per task, draw mini-batches and dropout; they are
    needed only where `loop` uses them. `owners` are the cells the tasks belong to, rising; a cell that diverges
    leaves the others untouched. The result does not depend on how tasks are grouped.
    """
    encoder.remember(np.concatenate([episode.support.ravel() for episode in episodes]))
    owners = owners if owners is not None else [0] * len(episodes)

    support = [episode.support.ravel() for episode in episodes]
    labels_S = slots(episodes[0].support, encoder.backbone.device)

    def adapt_tasks(tasks: slice) -> Adapted:
        own_rngs = rngs[tasks] if rngs is not None else ()
        return _adapt_group(encoder, theta.rows(tasks), support[tasks], labels_S, loop, own_rngs, owners[tasks])

    groups = encoder.in_groups(adapt_tasks, len(episodes))
    return Adapted(join_adapters(g.adapters for g in groups), torch.cat([g.losses for g in groups], dim=1))


def adapt_to_support(
    encoder: PromptEncoder,
    theta: Adapters,
    utterances: Int[np.ndarray, "S"],
    labels: Int[np.ndarray, "S"],
    loop: InnerLoop,
    rng: np.random.Generator,
) -> Adapted:
    """The inner loop of one task whose classes may have different numbers of shots, from `theta [1, …]`."""
    encoder.remember(utterances)
    labels_S = torch.from_numpy(labels).to(encoder.backbone.device)
    return _adapt_group(encoder, theta, [utterances], labels_S, loop, [rng], [0])


def slots(examples: Int[np.ndarray, "n_way per_class"], device: torch.device) -> Int[Tensor, "S"]:
    """Labels of a support or query set in its order: slot w, once for each example of row w."""
    n_way, per_class = examples.shape
    return torch.arange(n_way, device=device).repeat_interleave(per_class)


def _adapt_group(
    encoder: PromptEncoder,
    theta: Adapters,
    support: Sequence[Int[np.ndarray, "S"]],
    labels_S: Int[Tensor, "S"],
    loop: InnerLoop,
    rngs: Sequence[np.random.Generator],
    owners: Sequence[int],
) -> Adapted:
    device, n_tasks, n_support = encoder.backbone.device, len(support), len(labels_S)
    whole = encoder.prepare(support, owners)
    phi = in_working_order(theta)
    if (head_from := HEADS[loop.head].from_support) is not None:
        with torch.no_grad():
            features = encoder.features(whole, phi).unflatten(0, (n_tasks, -1))
        phi = Adapters(phi.tensors | head_from(features, labels_S, phi.tensors[HEAD_BIAS].shape[1]))
    phi = phi.map(lambda tensor: tensor.requires_grad_())
    variables = list(phi.tensors.values())
    optimizer = _OPTIMIZERS[loop.optimizer](variables, lr=loop.learning_rate)
    dropout = _dropout_streams(loop, rngs, device)
    losses = torch.empty(loop.steps, n_tasks, device=device)
    for step in range(loop.steps):
        leave_if_abandoned()
        batch, batch_labels = whole, labels_S.expand(n_tasks, -1)
        if loop.batch_size is not None and loop.batch_size < n_support:
            chosen = np.stack([rng.permutation(n_support)[: loop.batch_size] for rng in rngs])
            batch = encoder.prepare([s[c] for s, c in zip(support, chosen, strict=True)], owners)
            batch_labels = labels_S[torch.from_numpy(chosen).to(device)]
        features = encoder.features(batch, phi, dropout).unflatten(0, (n_tasks, -1))
        losses_T = task_losses(logits(phi, features), batch_labels)
        # Each task's loss depends on its own parameters alone, so the gradient of the sum is every task's own.
        gradients = torch.autograd.grad(losses_T.sum(), variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            # The fused kernel walks both in memory order.
            is_alike = gradient.stride() == variable.stride()
            variable.grad = gradient if is_alike else torch.empty_like(variable).copy_(gradient)
        optimizer.step()
        optimizer.zero_grad()
        losses[step] = losses_T.detach()
        # Whatever outlives the step lies between its activations and keeps the allocator from joining them again.
        del features, losses_T, gradients, gradient
    return Adapted(phi.map(lambda tensor: tensor.detach()), losses)


def _dropout_streams(
    loop: InnerLoop, rngs: Sequence[np.random.Generator], device: torch.device
) -> tuple[float, list[torch.Generator]] | None:
    if loop.dropout == 0:
        return None
    return loop.dropout, [torch.Generator(device).manual_seed(int(rng.integers(2**62))) for rng in rngs]


# Both act on each number by itself, so stacked tasks are each optimised alone.
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, betas=(0.0, ADAM_BETA2), eps=ADAM_EPSILON, fused=True),
    "sgd": torch.optim.SGD,
}
