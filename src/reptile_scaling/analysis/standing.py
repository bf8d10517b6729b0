"""How the meta-trained initialisation stands against the baselines, paired over the shared test tasks."""

from dataclasses import dataclass

import numpy as np

from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell


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
    """The best level against every rival among the baselines, by 95 % intervals paired over test tasks."""
    accuracies = task_accuracies(run, best_cells(run))
    return [
        Standing(b.name, b.label, b.accuracy, *paired_gain(accuracies, np.array(b.task_accuracies)))
        for b in run.read_baselines().values()
        if b.is_rival
    ]


def standing_sentence(run: RunDirectory) -> str:
    """The best level (on validation) against every rival among the baselines, in accuracy, by 95 % paired intervals.

    A level's accuracy on a task is the mean over its seeds; the interval is over test tasks. Empty without baselines.
    """
    cells = best_cells(run)
    accuracies = task_accuracies(run, cells)
    verdicts: dict[str, list[str]] = {"beats": [], "is level with": [], "falls short of": []}
    for s in standings(run):
        verdicts[s.verb].append(f"{s.label} ({s.accuracy:.1%}, {s.gain:+.1f} ± {s.error:.1f} points)")
    clauses = [f"{verb} {'; '.join(found)}" for verb, found in verdicts.items() if found]
    if not clauses:
        return ""
    name = cells[0].level_name
    where = f"on {name} tasks" if cells[0].value is None else f"with {name}"
    return f"Meta-trained {where} ({accuracies.mean():.1%}), it {', and '.join(clauses)}."


def paired_gain(accuracies: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Points of accuracy `[tasks]` beyond the others' on the same tasks: mean, half-width of its 95 % interval."""
    points = 100 * (accuracies - others)
    half_width = 1.96 * float(points.std(ddof=1)) / len(points) ** 0.5 if len(points) > 1 else np.inf
    return float(points.mean()), half_width


def task_accuracies(run: RunDirectory, cells: list[Cell]) -> np.ndarray:
    """Accuracy on each test task, mean over the cells."""
    tasks = [run.cell(cell).read_test_tasks() for cell in cells]
    accuracies: np.ndarray = np.array([[task.accuracy for task in of_cell] for of_cell in tasks]).mean(0)
    return accuracies
