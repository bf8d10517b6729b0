"""What visits, inner steps and classes do to a run's losses over N, as surfaces, where the run has measured both."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from reptile_scaling.laws import SURFACE_LAWS, SurfaceLaw, SurfaceTable
from reptile_scaling.laws.surface_forms import CLASSES, INNER_STEPS, META_STEPS, SurfaceForm
from reptile_scaling.laws.surfaces import why_too_few
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.records import CellResult

FEWEST_VALUES = 3
"""Of N, and of what stands beside it at one N: through two a surface is drawn by its formula alone."""
LEAST_RATIO = 2.0
"""Of the largest to the smallest z at one N: classes that seeds happen to meet are no axis."""
Row = tuple[int, float, float, str]
"""N, z, loss and the cell they are of."""


@dataclass(frozen=True)
class SurfaceOfRun:
    """A surface with the rows that it was fitted to."""

    table: SurfaceTable
    law: SurfaceLaw


def surfaces_of_run(*runs: RunDirectory) -> dict[str, SurfaceOfRun]:
    """By name in SURFACE_LAWS, of one run or of several that differ in nothing else; what the finished cells do not
    show has none."""
    tables = ((META_STEPS, visits_of(*runs)), (INNER_STEPS, inner_steps_of(*runs)), (CLASSES, classes_of(*runs)))
    return {
        form.name: SurfaceOfRun(table, SURFACE_LAWS[form.name](table))
        for form, table in tables
        if is_enough(form, table)
    }


def is_enough(form: SurfaceForm, table: SurfaceTable) -> bool:
    """Whether N varies, and z at one N at least."""
    if why_too_few(form, table) or np.unique(table.n_tasks).size < FEWEST_VALUES:
        return False
    at_n = [np.unique(table.z[table.n_tasks == n]) for n in np.unique(table.n_tasks)]
    return any(z.size >= FEWEST_VALUES and z[-1] >= LEAST_RATIO * z[0] for z in at_n)


def visits_of(*runs: RunDirectory) -> SurfaceTable:
    """Validation loss of every cell at every evaluation, over N and how often each task had been visited."""
    rows = (
        (r.n_tasks, row.meta_step * run.config().meta_batch_size / r.n_tasks, row.validation_loss, _name(run, r))
        for run, r in _finished(runs)
        for row in run.cell(r.cell).read_eval_stats()
        if row.meta_step > 0
    )
    return _table(rows, "visits of each task")


def inner_steps_of(*runs: RunDirectory) -> SurfaceTable:
    """Test loss over N and inner steps, where a cell has its adaptation curve; step 0 is before any adaptation."""
    rows = (
        (r.n_tasks, row.inner_step, row.loss, _name(run, r))
        for run, r in _finished(runs)
        for row in run.cell(r.cell).read_adaptation_curve()
        if row.inner_step > 0
    )
    return _table(rows, "inner steps")


def classes_of(*runs: RunDirectory) -> SurfaceTable:
    """Meta-test loss over N and the training classes that a cell met."""
    rows = ((r.n_tasks, r.distinct_classes, r.meta_test_loss, _name(run, r)) for run, r in _finished(runs))
    return _table(rows, "training classes met")


def _finished(runs: Iterable[RunDirectory]) -> Iterator[tuple[RunDirectory, CellResult]]:
    return ((run, result) for run in runs for result in run.results())


def _name(run: RunDirectory, result: CellResult) -> str:
    """Of a cell, among those of several runs."""
    return f"{run.path.name}/{result.cell.name}"


def _table(rows: Iterable[Row], z_name: str) -> SurfaceTable:
    """Rows whose loss has a logarithm."""
    kept = [row for row in rows if np.isfinite(row[2]) and row[2] > 0]
    n, z, loss = (np.array([row[i] for row in kept], dtype=float) for i in range(3))
    return SurfaceTable(n, z, loss, tuple(row[3] for row in kept), z_name)
