"""Paired differences on shared test tasks, with intervals that know of test classes and of initialisations.

Tasks share classes, so differences of tasks are not independent: the variance of their mean is that of crossed random
effects of classes and tasks (laws/effects), and initialisations (seeds) add their own scatter.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from reptile_scaling.laws.effects import task_effects

# Points that a mean over seeds may be off by where both sides are at the same accuracy on every task.
_ROUNDING = 1e-6

TaskClasses = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Gain:
    """Points of accuracy of one start beyond another's, mean over tasks and initialisations."""

    points: float
    half_width: float
    """Of the 95 % interval over test classes, tasks and initialisations."""

    @property
    def verb(self) -> str:
        """What the interval says of it."""
        if abs(self.points) <= max(self.half_width, _ROUNDING):
            return "is level with"
        return "beats" if self.points > 0 else "falls short of"


def paired_gain(ours: Float[np.ndarray, "S T"], theirs: Float[np.ndarray, "R T"], classes: TaskClasses | None) -> Gain:
    """Ours minus theirs on the same T test tasks, from S and R initialisations; `classes` are those of each task.

    The degrees of freedom are Welch and Satterthwaite's of the parts that were estimated: classes, tasks, and the
    initialisations of either side where there are several.
    """
    points = 100 * (ours.mean(0) - theirs.mean(0))
    if len(points) < 2:
        return Gain(float(points.mean()), float("inf"))
    effects = task_effects(points[:, None], classes)
    parts = [(float((effects.by_class**2).sum()), max(1.0, effects.class_df))]
    parts.append((float((effects.by_task**2).sum()), len(points) - 1.0))
    for side in (ours, theirs):
        if len(side) > 1:
            means = 100 * side.mean(1)
            parts.append((float(means.var(ddof=1)) / len(means), len(means) - 1.0))
    variance = sum(part for part, _ in parts)
    df = variance**2 / max(sum(part**2 / n for part, n in parts), 1e-300)
    return Gain(float(points.mean()), float(student.ppf(0.975, max(df, 1.0)) * variance**0.5))
