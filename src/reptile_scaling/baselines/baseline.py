"""What a baseline is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.evaluation import Reading
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.runs.records import CurvePoint


@dataclass(frozen=True)
class Scores:
    """Per test task, mean over initialisations where there are several; and whatever the baseline chose."""

    accuracy: np.ndarray
    loss: np.ndarray | None
    settings: dict[str, Any]
    seconds: float | None = None
    """What all test tasks took, for work that may have been resumed; None is what the call took."""
    curve: list[CurvePoint] = field(default_factory=list)
    """Over inner steps, where it is measured."""
    by_initialisation: list[list[float]] = field(default_factory=list)
    """Accuracies on every test task from each initialisation, where there are several."""


def mean_loss(scores: Scores) -> float:
    """Over the tasks; infinite where it diverged, so that nobody chooses it."""
    assert scores.loss is not None
    mean = float(scores.loss.mean())
    return mean if np.isfinite(mean) else float("inf")


def mean_scores(readings: Sequence[Reading], settings: dict[str, Any]) -> Scores:
    """Over initialisations."""
    accuracies, losses = [r.accuracy for r in readings], [r.loss for r in readings]
    each = [accuracy.tolist() for accuracy in accuracies]
    return Scores(np.mean(accuracies, axis=0), np.mean(losses, axis=0), settings, by_initialisation=each)


def mean_points(curves: Sequence[Sequence[CurvePoint]]) -> list[CurvePoint]:
    """Over initialisations, whose rates may differ: that of the first is named."""
    means = []
    for points in zip(*curves, strict=True):
        loss, accuracy = (float(np.mean([getattr(p, name) for p in points])) for name in ("loss", "accuracy"))
        means.append(replace(points[0], loss=loss, accuracy=accuracy))
    return means


def always(config: Config) -> bool:
    """For a baseline that every model and algorithm can stand beside."""
    return True


@dataclass(frozen=True)
class Baseline:
    """How a baseline is named in figures, what measures it, what that costs, and where it stands in the report."""

    label: str
    measure: Callable[[Workbench, Sequence[Episode], Path], Scores]
    """From the shared test tasks; the folder is its own, for work that it resumes."""
    work: Callable[[Config], Work]
    """At most; for estimates."""
    applies: Callable[[Config], bool] = always
    """Whether it means anything for this model and algorithm."""
    is_rival: bool = True
    """Whether meta-training has to beat it. The pretrained model before any step is shown, and is no rival."""


def readings_only(config: Config) -> Work:
    """One forward of every test task's query set, little more."""
    return Work(readings=config.num_meta_test_tasks)
