"""Laws and results as tables for a terminal."""

from typing import Any

import numpy as np
from rich.table import Table

from reptile_scaling.laws import Law, LossTable, fit_law
from reptile_scaling.runs import RunDirectory


def law_of_run(run: RunDirectory) -> Law:
    """The law of a run's finished cells: meta-test loss over N_tasks, with the losses of the shared test tasks."""
    results = run.results()
    task_losses = [
        [row["loss"] for row in run.cell(cell).read_test_tasks()] for cell in run.cells() if run.cell(cell).is_done
    ]
    table = LossTable(
        n_tasks=np.array([r.n_tasks for r in results], dtype=float),
        loss=np.array([r.meta_test_loss for r in results], dtype=float),
        group=tuple(str(r.seed) for r in results),
        task_losses=np.array(task_losses, dtype=float),
        x_name="N_tasks",
        y_name="meta-test loss",
    )
    return fit_law(table)


def results_table(run: RunDirectory) -> Table:
    """A row per finished cell."""
    table = Table(title="results on the shared test tasks of unseen classes", title_justify="left")
    for column in ("N_tasks", "seed", "loss", "accuracy", "zero-step", "classes", "utterances", "tasks/s"):
        table.add_column(column, justify="right")
    for r in run.results():
        table.add_row(
            str(r.n_tasks),
            str(r.seed),
            f"{r.meta_test_loss:.3f}",
            f"{r.meta_test_accuracy:.1%}",
            f"{r.zero_step_accuracy:.1%}",
            str(r.distinct_classes),
            str(r.distinct_utterances),
            f"{r.tasks_per_second:.1f}",
        )
    return table


def law_table(law: Law) -> Table:
    """A row per form, R² last: it decides nothing."""
    table = Table(title="laws", title_justify="left")
    for column in ("form", "parameters [95 % interval]", "hold-out error", "weight", "R²"):
        table.add_column(column)
    for name, form in law.as_json()["forms"].items():
        if form["identified"]:
            table.add_row(
                name, _parameters(form), _number(form["holdout_error"]), _number(form["weight"]), _number(form["r2"])
            )
        else:
            table.add_row(name, "not identified: too few levels", "", "", "")
    return table


def _parameters(form: dict[str, Any]) -> str:
    parts = []
    for parameter, interval in form["ci95"].items():
        shown = f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
        parts.append(f"{parameter} = {form[parameter]:.3g}{shown}")
    return "\n".join(parts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
