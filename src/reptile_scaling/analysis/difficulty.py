"""Which test classes and tasks stay hard for the best initialisations."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.runs.directory import RunDirectory


@dataclass(frozen=True)
class ClassDifficulty:
    """A test class over all tasks that hold it and all seeds of the best level."""

    name: str
    n: int
    """Query utterances, counted once for every task and seed."""
    recall: float
    taken_for: str | None
    """The class its queries are most often given instead; None where all are right."""
    n_taken: int


@dataclass(frozen=True)
class TaskDifficulty:
    """A test task, accuracy and loss averaged over the seeds of the best level."""

    task: int
    classes: tuple[str, ...]
    accuracy: float
    loss: float


def class_difficulties(run: RunDirectory) -> list[ClassDifficulty]:
    """Every test class that was asked for, hardest first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in best_cells(run):
        for found_as in run.cell(cell).read_confusions():
            counts[found_as.true_class][found_as.predicted] += found_as.n
    found = []
    for name, predicted in counts.items():
        wrong = [(n, other) for other, n in predicted.items() if other != name]
        n_taken, taken_for = max(wrong, default=(0, None))
        total = predicted.total()
        found.append(ClassDifficulty(name, total, predicted[name] / total, taken_for, n_taken))
    return sorted(found, key=lambda c: (c.recall, c.name))


def task_difficulties(run: RunDirectory) -> list[TaskDifficulty]:
    """Every test task, hardest first."""
    of_seeds = [run.cell(cell).read_test_tasks() for cell in best_cells(run)]
    found = []
    for task, results in zip(run.read_pool("test"), zip(*of_seeds, strict=True), strict=False):
        accuracy, loss = float(np.mean([r.accuracy for r in results])), float(np.mean([r.loss for r in results]))
        found.append(TaskDifficulty(task.task, tuple(task.classes), accuracy, loss))
    return sorted(found, key=lambda t: (t.accuracy, t.task))
