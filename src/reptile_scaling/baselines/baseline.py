"""What a baseline is."""

import threading
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

Tell = Callable[[int, int], None]
"""Told how many of how many equal parts of its work a baseline has done, by any of its threads."""


class StepsTold:
    """Adds up the inner steps that lanes take from several initialisations, and tells how many of how many.

    Tuning takes more than its least number where the grid of rates grows; what earlier initialisations took is then
    expected of the later ones.
    """

    def __init__(self, tell: Tell, n_initialisations: int, at_least: int) -> None:
        """`at_least` steps of one task from each initialisation."""
        self._tell, self._n_initialisations, self._expected = tell, n_initialisations, at_least
        self._n_finished = self._before = self._now = 0
        self._counting = threading.Lock()

    def __call__(self, n_steps: int) -> None:
        """Some tasks have taken a step each."""
        with self._counting:
            self._now += n_steps
            left = (self._n_initialisations - self._n_finished) * max(self._expected, self._now)
            self._tell(self._before + self._now, self._before + left)

    def finish(self) -> None:
        """With this initialisation."""
        self._n_finished, self._before, self._now = self._n_finished + 1, self._before + self._now, 0
        self._expected = max(self._expected, self._before // self._n_finished)


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
    measure: Callable[[Workbench, Sequence[Episode], Path, Tell], Scores]
    """From the shared test tasks; the folder is its own, for work that it resumes."""
    work: Callable[[Config], Work]
    """At most; for estimates."""
    applies: Callable[[Config], bool] = always
    """Whether it means anything for this model and algorithm."""
    takes_same_loop: bool = False
    """Whether it adapts by the inner loop that cells are tested with, so that meta-training meets it there; against
    other rivals a cell stands at the rate and steps that it chose on validation tasks."""
    is_rival: bool = True
    """Whether meta-training has to beat it. The pretrained model before any step is shown, and is no rival."""


def features_only(config: Config) -> Work:
    """One forward of the test tasks' utterances, little more."""
    return Work(test_passes=1)
