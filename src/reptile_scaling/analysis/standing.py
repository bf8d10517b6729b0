"""How the meta-trained initialisation stands against the baselines, paired over the shared test tasks."""

import numpy as np
from jaxtyping import Float

from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.analysis.paired import Gain, TaskClasses, paired_gain
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import BaselineResult


def standing_sentence(run: RunDirectory) -> str:
    """The best level (on validation) against every rival among the baselines, in accuracy, by 95 % paired intervals
    over test classes, tasks and initialisations. Empty without baselines."""
    cells = best_cells(run)
    gains = standing(run)
    clauses = []
    for verb in ("beats", "is level with", "falls short of"):
        found = [(b, gain) for b, gain in gains if gain.verb == verb]
        named = [f"{b.label} ({b.accuracy:.1%}, {g.points:+.1f} ± {g.half_width:.1f} points)" for b, g in found]
        if named:
            clauses.append(f"{verb} {'; '.join(named)}")
    if not clauses:
        return ""
    name = cells[0].level_name
    where = f"on {name} tasks" if cells[0].value is None else f"with {name}"
    return f"Meta-trained {where} ({task_accuracies(run, cells).mean():.1%}), it {', and '.join(clauses)}."


def standing(run: RunDirectory) -> list[tuple[BaselineResult, Gain]]:
    """Every rival with what the best level gains on it."""
    ours, classes = task_accuracies(run, best_cells(run)), classes_of_tests(run)
    rivals = [baseline for baseline in run.read_baselines().values() if baseline.is_rival]
    return [(rival, paired_gain(ours, initialisations_of(rival), classes)) for rival in rivals]


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
