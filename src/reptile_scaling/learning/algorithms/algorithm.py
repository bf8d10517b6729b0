"""What an algorithm is: tasks that start from θ → what each of them says of θ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import Adapters, join_adapters
from reptile_scaling.model.engine import Engine


@dataclass(frozen=True)
class TaskGradients:
    """Each task's meta-gradient `[T, …]`; θ moves against the mean of its cell's."""

    gradients: Adapters
    losses: Float[Tensor, "steps T"]
    """Of training, nats per utterance: before each inner step, where there is an inner loop."""
    moments: AdamMoments | None = None

    def rows(self, tasks: slice) -> "TaskGradients":
        """Those of some of the tasks."""
        moments = self.moments.rows(tasks) if self.moments is not None else None
        return TaskGradients(self.gradients.rows(tasks), self.losses[:, tasks], moments)

    @classmethod
    def join(cls, groups: "Sequence[TaskGradients]") -> "TaskGradients":
        """Those of groups of tasks, one after another."""
        return cls(
            join_adapters(g.gradients for g in groups),
            torch.cat([g.losses for g in groups], dim=1),
            AdamMoments.join_if_any([g.moments for g in groups]),
        )


@dataclass(frozen=True)
class Algorithm:
    """How tasks move θ, and what that asks for."""

    task_gradients: Callable[[Engine, TaskBatch], TaskGradients]
    """Of a batch that fits the device; the trainer forms the batches."""
    reads_query: bool = False
    """Whether training uses the query sets too."""
    differentiates_inner_loop: bool = False
    """Whether second derivatives pass through the inner loop, which then must be SGD."""
    starts_from_support: bool = False
    """Whether it needs a head that is computed from the support set."""
    adapts: Literal["all", "head"] = "all"
    """What the inner loop moves, in training and at meta-test."""
    has_inner_loop: bool = True
    """Whether training adapts tasks, so that there are inner rates to learn."""
    keeps_moments: bool = False
    """Whether its inner Adam can go on from task to task."""
    utterances_held: Callable[[int, int], int] = lambda n_support, n_query: n_support
    """Utterances of a task whose activations are kept for a backward at once; more is less tasks in flight."""
    own_parameters: Callable[[int, int], dict[str, Tensor]] | None = None
    """(training classes, width) → parameters that are trained with θ, and that no task starts from."""
