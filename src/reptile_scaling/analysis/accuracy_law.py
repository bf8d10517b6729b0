"""The law of a run's accuracies, on the logit scale, and how far their confidence is to be trusted."""

from dataclasses import replace

import numpy as np

from reptile_scaling.analysis.law_of_run import losses_of_run
from reptile_scaling.laws import Law, fit_law
from reptile_scaling.runs.directory import RunDirectory

N_DRAWS = 400
"""Of every bootstrap: the page says the verdict, and draws no band."""


def accuracy_law_of_run(run: RunDirectory) -> Law:
    """The odds of an error over the axis: seeds, test classes and test tasks are drawn as for losses."""
    losses, results, config = losses_of_run(run), run.results(), run.config()
    tasks = [[task.accuracy for task in run.cell(r.cell).read_test_tasks()] for r in results]
    table = replace(
        losses,
        loss=np.array([r.meta_test_accuracy for r in results], dtype=float),
        task_losses=np.array(tasks, dtype=float),
        y_name="query accuracy",
        n_queries=results[0].num_meta_test_tasks * config.n_way * config.k_query,
    )
    return fit_law(table, transform="logit_accuracy", n_bootstrap=N_DRAWS)


def calibration_sentence(run: RunDirectory) -> str:
    """Expected calibration error at the smallest and the largest level, means over cells, beside what chance shows.

    Empty for cells of versions that kept no probabilities.
    """
    results = run.results()
    levels = sorted({r.level for r in results})
    told = []
    for level in dict.fromkeys((levels[0], levels[-1])):
        cells = [r for r in results if r.level == level]
        if any(r.calibration_error is None for r in cells):
            return ""
        told.append(f"{_mean([r.calibration_error for r in cells]):.1%} at {cells[0].cell.level_name}")
    chance = _mean([r.calibration_error_by_chance for r in results])
    return (
        f"Confidence misses accuracy (expected calibration error) by {' and '.join(told)}; "
        f"as many answers that are right as often as they say would show {chance:.1%}."
    )


def _mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))
