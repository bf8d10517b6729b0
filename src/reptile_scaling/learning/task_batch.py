"""The tasks that go through a meta-step or an evaluation side by side, each with its own start."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reptile_scaling.data.episodes import Episode
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import Adapters


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
class TaskBatch:
    """T tasks and the inner loop they are adapted by; of one cell or of a whole cohort."""

    theta: Adapters
    """`[T, …]`: where each task starts."""
    episodes: Sequence[Episode]
    loop: InnerLoop
    rngs: Sequence[np.random.Generator] | None = None
    """One per task, for mini-batches and dropout; needed where `loop` uses them."""
    owners: Sequence[int] | None = None
    """The cell of each task, rising: a cell that diverges leaves the others untouched. None is one cell."""
    train_classes: tuple[int, ...] = ()
    """All classes a training task may have."""
    moments: AdamMoments | None = None
    """`[T, …]`: where the inner Adam goes on, if it does."""

    def __len__(self) -> int:
        return len(self.episodes)

    def rows(self, tasks: slice) -> "TaskBatch":
        """Some of the tasks."""
        return TaskBatch(
            self.theta.rows(tasks),
            self.episodes[tasks],
            self.loop,
            self.rngs[tasks] if self.rngs is not None else None,
            self.owners[tasks] if self.owners is not None else None,
            self.train_classes,
            self.moments.rows(tasks) if self.moments is not None else None,
        )

    def support_utterances(self) -> np.ndarray:
        """Of all tasks, one after another."""
        return np.concatenate([episode.support.ravel() for episode in self.episodes])

    def query_utterances(self) -> np.ndarray:
        """Of all tasks, one after another."""
        return np.concatenate([episode.query.ravel() for episode in self.episodes])
