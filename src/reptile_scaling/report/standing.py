"""How the meta-trained initialisation stands against the baselines, paired over the shared test tasks."""

import numpy as np

from reptile_scaling.report.levels import best_cells
from reptile_scaling.runs import Cell, RunDirectory


def standing_sentence(run: RunDirectory) -> str:
    """The best level (on validation) against every baseline but chance, in accuracy, by 95 % paired intervals.

    A level's accuracy on a task is the mean over its seeds; the interval is over test tasks. Empty without baselines.
    """
    cells = best_cells(run)
    accuracies = task_accuracies(run, cells)
    verdicts: dict[str, list[str]] = {"beats": [], "is level with": [], "falls short of": []}
    for baseline in run.read_baselines().values():
        if baseline.name == "zero_step":
            continue
        difference = accuracies - np.array(baseline.task_accuracies)
        half_width = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.inf
        gain, error = 100 * float(difference.mean()), 100 * float(half_width)
        verb = "is level with" if abs(gain) <= error else "beats" if gain > 0 else "falls short of"
        verdicts[verb].append(f"{baseline.label} ({baseline.accuracy:.1%}, {gain:+.1f} ± {error:.1f} points)")
    clauses = [f"{verb} {'; '.join(found)}" for verb, found in verdicts.items() if found]
    if not clauses:
        return ""
    name = cells[0].level_name
    where = f"on {name} tasks" if cells[0].value is None else f"with {name}"
    return f"Meta-trained {where} ({accuracies.mean():.1%}), it {', and '.join(clauses)}."


def task_accuracies(run: RunDirectory, cells: list[Cell]) -> np.ndarray:
    """Accuracy on each test task, mean over the cells."""
    tasks = [run.cell(cell).read_test_tasks() for cell in cells]
    accuracies: np.ndarray = np.array([[row["accuracy"] for row in rows] for rows in tasks]).mean(0)
    return accuracies
