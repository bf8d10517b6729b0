"""How the meta-trained initialisation stands against the baselines, paired over the shared test tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.analysis.paired import Gain, TaskClasses, paired_gain
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
    is_tuned: bool
    """Whether the level stands at the rate and number of inner steps that its cells chose on validation tasks; else in
    the inner loop as it is set."""

    @property
    def verb(self) -> str:
        """What the best level does to the rival."""
        return Gain(self.gain, self.error).verb


def standings(run: RunDirectory) -> list[Standing]:
    """The best level against every rival among the baselines, by 95 % intervals over test classes, tasks and
    initialisations.

    Against rivals that take the same inner loop the level stands in that loop as it is set. Against the others, which
    choose what they have to choose on validation tasks, it stands at the rate and steps that its cells chose there,
    where they have curves.
    """
    cells, classes = best_cells(run), classes_of_tests(run)
    as_set, tuned = task_accuracies(run, cells), tuned_accuracies(run, cells)
    found = []
    for rival in run.read_baselines().values():
        if rival.is_rival:
            ours = as_set if rival.takes_same_loop or tuned is None else tuned
            gain = paired_gain(ours, initialisations_of(rival), classes)
            is_tuned = ours is not as_set
            found.append(Standing(rival.name, rival.label, rival.accuracy, gain.points, gain.half_width, is_tuned))
    return found


def standing_sentence(run: RunDirectory) -> str:
    """The best level (on validation) against every rival among the baselines, in accuracy, by 95 % paired intervals
    over test classes, tasks and initialisations. Empty without baselines."""
    cells = best_cells(run)
    found = standings(run)
    if not found:
        return ""
    name = cells[0].level_name
    where = f"on {name} tasks" if cells[0].value is None else f"with {name}"
    reached = f"{task_accuracies(run, cells).mean():.1%}"
    tuned = tuned_accuracies(run, cells)
    if tuned is not None and any(standing.is_tuned for standing in found):
        reached += f" in the same inner loop, {tuned.mean():.1%} at rate and steps chosen on validation tasks"
    return f"Meta-trained {where} ({reached}), it {standing_clauses(found)}."


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


def tuned_accuracies(run: RunDirectory, cells: Sequence[Cell]) -> Float[np.ndarray, "S T"] | None:
    """Accuracy on each test task after the inner steps, at the rate, that each cell chose on validation tasks; None
    where a cell has no curve to choose from."""
    rows = []
    for cell in cells:
        curve = [(p.validation_loss, p.inner_step) for p in run.cell(cell).read_adaptation_curve()]
        choices = [(loss, step) for loss, step in curve if loss is not None]
        if not choices:
            return None
        _, best = min(choices)
        rows.append([r.accuracy for r in run.cell(cell).read_curve_readings() if r.inner_step == best])
    return np.array(rows)


def task_accuracies(run: RunDirectory, cells: list[Cell]) -> Float[np.ndarray, "S T"]:
    """Accuracy on each test task, a row for each cell."""
    tasks = [run.cell(cell).read_test_tasks() for cell in cells]
    return np.array([[task.accuracy for task in of_cell] for of_cell in tasks])
