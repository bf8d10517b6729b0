"""Labelled utterances of several tasks, read under each task's own parameters: support sets and query sets."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import logits, task_losses

Dropout = tuple[float, list[torch.Generator]] | None
"""Rate and a stream per task."""


class Examples:
    """As many utterances of each of T tasks, with the same labels in the same order."""

    def __init__(
        self,
        engine: Engine,
        utterances_of_task: Sequence[Int[np.ndarray, "S"]],
        labels_S: Int[Tensor, "S"],
        owners: Sequence[int] | None = None,
    ) -> None:
        self._engine = engine
        self._utterances_of_task = utterances_of_task
        self._owners = owners
        self._whole = engine.prepare(utterances_of_task, owners)
        self.labels_S = labels_S
        self.n_tasks = len(utterances_of_task)

    def labels(self, chosen: Int[np.ndarray, "T b"] | None = None) -> Int[Tensor, "T b"]:
        """Of all utterances, or of those chosen of each task."""
        if chosen is None:
            return self.labels_S.expand(self.n_tasks, -1)
        return self.labels_S[torch.from_numpy(chosen).to(self.labels_S.device)]

    def features(
        self, adapters: Adapters, chosen: Int[np.ndarray, "T b"] | None = None, dropout: Dropout = None
    ) -> Float[Tensor, "T b D"]:
        """Features of all utterances, or of those chosen of each task."""
        batch = self._whole
        if chosen is not None:
            picked = [own[rows] for own, rows in zip(self._utterances_of_task, chosen, strict=True)]
            batch = self._engine.prepare(picked, self._owners)
        features: Tensor = self._engine.features(batch, adapters, dropout).unflatten(0, (self.n_tasks, -1))
        return features

    def losses(
        self, adapters: Adapters, chosen: Int[np.ndarray, "T b"] | None = None, dropout: Dropout = None
    ) -> Float[Tensor, "T"]:
        """Cross-entropy of each task, nats per utterance."""
        return task_losses(logits(adapters, self.features(adapters, chosen, dropout)), self.labels(chosen))


def support_examples(engine: Engine, batch: TaskBatch) -> Examples:
    """The support sets of a batch."""
    return _examples(engine, [episode.support for episode in batch.episodes], batch.owners)


def query_examples(engine: Engine, batch: TaskBatch) -> Examples:
    """The query sets of a batch."""
    return _examples(engine, [episode.query for episode in batch.episodes], batch.owners)


def _examples(engine: Engine, sets: Sequence[np.ndarray], owners: Sequence[int] | None) -> Examples:
    return Examples(engine, [own.ravel() for own in sets], slots(sets[0], engine.backbone.device), owners)


def loss_gradient(examples: Examples, phi: Adapters) -> Adapters:
    """∇L_t(φ_t) of every task, `[T, …]`."""
    phi = phi.map(lambda tensor: tensor.detach().requires_grad_())
    losses_T = examples.losses(phi)
    return phi.like(torch.autograd.grad(losses_T.sum(), list(phi.tensors.values())))


def slots(examples: Int[np.ndarray, "n_way per_class"], device: torch.device) -> Int[Tensor, "S"]:
    """Labels of a support or query set in its order: slot w, once for each example of row w."""
    n_way, per_class = examples.shape
    return torch.arange(n_way, device=device).repeat_interleave(per_class)
