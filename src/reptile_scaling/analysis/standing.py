"""How the meta-trained initialisation stands against the baselines, paired over the shared test tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.analysis.paired import TaskClasses, paired_gain
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import BaselineResult


@dataclass(frozen=True)
class Standing:
    """The best level on validation tasks against one rival; `gain` in points of accuracy, with its half-width."""

    name: str
    label: str
    accuracy: float
    """Of the rival."""
    gain: float
    error: float

    @property
    def verb(self) -> str:
        """What the best level does to the rival."""
        return "is level with" if abs(self.gain) <= self.error else "beats" if self.gain > 0 else "falls short of"


def standings(run: RunDirectory) -> list[Standing]:
    """The best level against every rival among the baselines, by 95 % intervals over test classes, tasks and
    initialisations."""
    ours, classes = task_accuracies(run, best_cells(run)), classes_of_tests(run)
    rivals = [baseline for baseline in run.read_baselines().values() if baseline.is_rival]
    gains = [paired_gain(ours, initialisations_of(rival), classes) for rival in rivals]
    return [
        Standing(rival.name, rival.label, rival.accuracy, gain.points, gain.half_width)
        for rival, gain in zip(rivals, gains, strict=True)
    ]


def standing_sentence(run: RunDirectory) -> str:
    """The best level (on validation) against every rival among the baselines, in accuracy, by 95 % paired intervals
    over test classes, tasks and initialisations. Empty without baselines."""
    cells = best_cells(run)
    clauses = standing_clauses(standings(run))
    if not clauses:
        return ""
    name = cells[0].level_name
    where = f"on {name} tasks" if cells[0].value is None else f"with {name}"
    return f"Meta-trained {where} ({task_accuracies(run, cells).mean():.1%}), it {clauses}."


def standing_clauses(found: Sequence[Standing]) -> str:
    """`beats …, and is level with …`: rivals by what is done to them; empty without rivals."""
    clauses = []
    for verb in ("beats", "is level with", "falls short of"):
        alike = [f"{s.label} ({s.accuracy:.1%}, {s.gain:+.1f} ± {s.error:.1f} points)" for s in found if s.verb == verb]
        if alike:
            clauses.append(f"{verb} {'; '.join(alike)}")
    return ", and ".join(clauses)


def initialisations_of(baseline: BaselineResult) -> Float[np.ndarray, "R T"]:
    """Accuracy on each test task from each initialisation; one row where a baseline has none to vary."""
    return np.array(baseline.initialisations or [baseline.task_accuracies])


def classes_of_tests(run: RunDirectory) -> TaskClasses | None:
    """The classes of each test task, where the run's pool has them."""
    pool = run.read_pool("test")
    return tuple(tuple(task.classes) for task in pool) or None


def task_accuracies(run: RunDirectory, cells: list[Cell]) -> Float[np.ndarray, "S T"]:
    """Accuracy on each test task, a row for each cell."""
    tasks = [run.cell(cell).read_test_tasks() for cell in cells]
    return np.array([[task.accuracy for task in of_cell] for of_cell in tasks])
