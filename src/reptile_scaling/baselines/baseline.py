"""What a baseline is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench


@dataclass(frozen=True)
class Scores:
    """Per test task; and whatever the baseline chose."""

    accuracy: np.ndarray
    loss: np.ndarray | None
    settings: dict[str, Any]


def mean_loss(scores: Scores) -> float:
    """Over the tasks; infinite where it diverged, so that nobody chooses it."""
    assert scores.loss is not None
    mean = float(scores.loss.mean())
    return mean if np.isfinite(mean) else float("inf")


@dataclass(frozen=True)
class Baseline:
    """How a baseline is named in figures, what measures it, and what that costs."""

    label: str
    measure: Callable[[Workbench, Sequence[Episode]], Scores]
    work: Callable[[Config], Work]
    """At most; for estimates."""
    predicts_words: bool = False
    """Whether it asks the model for its next word, which an encoder has none of."""


def readings_only(config: Config) -> Work:
    """One forward of every test task's query set, little more."""
    return Work(readings=config.num_meta_test_tasks)
