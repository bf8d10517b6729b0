"""Which levels of the axis the report looks into: the smallest, the largest, and the best by validation tasks."""

import numpy as np

from reptile_scaling.axes import AXES
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import CellResult


def best_level(run: RunDirectory) -> float:
    """The level of lowest loss on the validation tasks, mean over its cells, each at the point that is tested.

    Not on the test tasks, or the best of many levels would look better than it is. The largest level where levels do
    not share their test tasks.
    """
    results = run.results()
    levels = sorted({r.level for r in results})
    if not AXES[results[0].axis].shares_tests:
        return levels[-1]
    return min(levels, key=lambda level: np.mean([_validation_loss(run, r) for r in results if r.level == level]))


def best_cells(run: RunDirectory) -> list[Cell]:
    """The finished cells of the best level."""
    best = best_level(run)
    return [r.cell for r in run.results() if r.level == best]


def shown_levels(run: RunDirectory) -> list[float]:
    """Smallest, best and largest level, each once; the largest alone where baselines belong to it."""
    results = run.results()
    levels = sorted({r.level for r in results})
    if not AXES[results[0].axis].shares_tests:
        return levels[-1:]
    return sorted({levels[0], best_level(run), levels[-1]})


def _validation_loss(run: RunDirectory, result: CellResult) -> float:
    rows = run.cell(result.cell).read_eval_stats()
    return next((r.validation_loss for r in rows if r.meta_step == result.selected_meta_step), rows[-1].validation_loss)
