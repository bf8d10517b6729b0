"""What an algorithm is: tasks that start from θ → what each of them says of θ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.adaptation import InnerLoop
from reptile_scaling.data.episodes import Episode
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.encoder import PromptEncoder


@dataclass(frozen=True)
class MetaBatch:
    """The T tasks of one meta-step, of all cells of a cohort."""

    theta: Adapters
    """`[T, …]`: where each task starts, which is its cell's θ."""
    episodes: Sequence[Episode]
    loop: InnerLoop
    rngs: Sequence[np.random.Generator]
    owners: Sequence[int]
    """The cell of each task, rising."""
    train_classes: tuple[int, ...] = ()
    """All classes a training task may have."""
    moments: AdamMoments | None = None
    """`[T, …]`: where the inner Adam goes on, if it does."""


@dataclass(frozen=True)
class TaskGradients:
    """Each task's meta-gradient `[T, …]`; θ moves against the mean of its cell's."""

    gradients: Adapters
    losses: Float[Tensor, "steps T"]
    """Of training, nats per utterance: before each inner step, where there is an inner loop."""
    moments: AdamMoments | None = None


@dataclass(frozen=True)
class Algorithm:
    """How tasks move θ, and what that asks for."""

    task_gradients: Callable[[PromptEncoder, MetaBatch], TaskGradients]
    reads_query: bool = False
    """Whether training uses the query sets too."""
    differentiates_inner_loop: bool = False
    """Whether second derivatives pass through the inner loop, which then must be SGD."""
    adapts: Literal["all", "head"] = "all"
    """What the inner loop moves, in training and at meta-test."""
    keeps_moments: bool = False
    """Whether its inner Adam can go on from task to task."""
    utterances_held: Callable[[int, int], int] = lambda n_support, n_query: n_support
    """Utterances of a task whose activations are kept for a backward at once; more is less tasks in flight."""
    own_parameters: Callable[[int, int], dict[str, Tensor]] | None = None
    """(training classes, width) → parameters that are trained with θ, and that no task starts from."""
