"""The law of a run: its finished cells as a table of losses, fitted."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reptile_scaling.axes import AXES
from reptile_scaling.data.files import read_table
from reptile_scaling.laws import Law, LossTable, fit_law, table_from_frame
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.records import PooledResult
from reptile_scaling.storage import read_listed


def law_of_run(run: RunDirectory) -> Law:
    """The law of a run's finished cells."""
    return fit_law(losses_of_run(run))


def law_of_last_points(run: RunDirectory) -> Law | None:
    """The law of the initialisations after the last meta-step; None where those are what is tested, or not kept."""
    table, results = losses_of_run(run), run.results()
    last = [r.last_meta_test_loss for r in results]
    if any(loss is None for loss in last) or all(
        loss == r.meta_test_loss for loss, r in zip(last, results, strict=True)
    ):
        return None
    losses = np.array(last, dtype=float)
    return fit_law(replace(table, loss=losses, task_losses=None, task_classes=None, y_name="loss of the last points"))


def read_losses(path: Path, x: str, y: str, group: str | None) -> LossTable:
    """The columns of a table file; or a run's folder, whose columns are known."""
    if path.is_dir():
        return losses_of_run(RunDirectory(path))
    read_listed(path, "run `report` on its folder again")  # a run's own table says whether it is as it was written
    return table_from_frame(read_table(path), x, y, group)


def losses_of_run(run: RunDirectory) -> LossTable:
    """Meta-test loss over the axis of the finished cells, with the losses of the shared test tasks.

    Of several class splits see `losses_of_splits`.
    """
    if run.config().class_splits is not None:
        return losses_of_splits(run)
    results = run.results()
    axis = AXES[results[0].axis if results else "n_tasks"]
    # Of these cells alone: while a run goes on, another may have been done since.
    task_losses = [[task.loss for task in run.cell(r.cell).read_test_tasks()] for r in results]
    return LossTable(
        x=np.array([r.level for r in results], dtype=float),
        loss=np.array([r.meta_test_loss for r in results], dtype=float),
        group=tuple(str(r.seed) for r in results),
        task_losses=np.array(task_losses, dtype=float),
        x_name=axis.name,
        x_symbol=axis.symbol,
        y_name="meta-test loss",
        dropped=tuple(_why_missing(run)),
        task_classes=_classes_of_tests(run, len(task_losses[0]) if task_losses else 0),
    )


def losses_of_splits(run: RunDirectory) -> LossTable:
    """Of several class splits: a row for each level and split, the mean over the split's seeds.

    Seeds of a split share its classes, and a split moves them together: the split is the replication. Test tasks are
    not shared, so there are no losses of single ones.
    """
    cells = run.pooled_results()
    axis = AXES[cells[0].axis if cells else "n_tasks"]
    replications = sorted({(r.level, r.class_split) for r in cells})
    return LossTable(
        x=np.array([level for level, _ in replications], dtype=float),
        loss=np.array([_mean_loss(cells, level, name) for level, name in replications], dtype=float),
        group=tuple(name for _, name in replications),
        x_name=axis.name,
        x_symbol=axis.symbol,
        y_name="meta-test loss",
        dropped=tuple(f"{name}: {why}" for name, own in run.split_runs().items() for why in _why_missing(own)),
    )


def _mean_loss(cells: Sequence[PooledResult], level: float, name: str) -> float:
    return float(np.mean([r.meta_test_loss for r in cells if (r.level, r.class_split) == (level, name)]))


def _classes_of_tests(run: RunDirectory, n_tasks: int) -> tuple[tuple[str, ...], ...] | None:
    """The classes of each test task, where the run's pool has them: intervals then draw classes too."""
    pool = run.read_pool("test")
    return tuple(tuple(task.classes) for task in pool[:n_tasks]) if 0 < n_tasks <= len(pool) else None


def _why_missing(run: RunDirectory) -> Iterator[str]:
    """The cells of the grid that have no result, each with its state or reason."""
    for cell in run.cells():
        status = run.cell(cell).read_status()
        if status.state != "done":
            yield f"{cell.name} is {status.state}" + (f" ({status.reason})" if status.reason else "")
