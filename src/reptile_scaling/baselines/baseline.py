"""What a baseline is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench

Tell = Callable[[int, int], None]
"""Told how many of how many equal parts of its work a baseline has done, by any of its threads."""


@dataclass(frozen=True)
class Scores:
    """Per test task; and whatever the baseline chose."""

    accuracy: np.ndarray
    loss: np.ndarray | None
    settings: dict[str, Any]
    seconds: float | None = None
    """What all test tasks took, for work that may have been resumed; None is what the call took."""


def mean_loss(scores: Scores) -> float:
    """Over the tasks; infinite where it diverged, so that nobody chooses it."""
    assert scores.loss is not None
    mean = float(scores.loss.mean())
    return mean if np.isfinite(mean) else float("inf")


def always(config: Config) -> bool:
    """For a baseline that every model and algorithm can stand beside."""
    return True


@dataclass(frozen=True)
class Baseline:
    """How a baseline is named in figures, what measures it, what that costs, and where it stands in the report."""

    label: str
    measure: Callable[[Workbench, Sequence[Episode], Path, Tell], Scores]
    """From the shared test tasks; the folder is its own, for work that it resumes."""
    work: Callable[[Config], Work]
    """At most; for estimates."""
    applies: Callable[[Config], bool] = always
    """Whether it means anything for this model and algorithm."""
    is_rival: bool = True
    """Whether meta-training has to beat it. The pretrained model before any step is shown, and is no rival."""
    draws_curve: bool = False
    """Whether it also gives the pretrained start's line in the figure of adaptation curves."""


def readings_only(config: Config) -> Work:
    """One forward of every test task's query set, little more."""
    return Work(readings=config.num_meta_test_tasks)
