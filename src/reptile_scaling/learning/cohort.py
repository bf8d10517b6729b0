"""Meta-training: a cohort of cells in lockstep on one device, with checkpoints.

R cells × meta_batch_size tasks share every forward. A cell's result does not depend on its cohort: its tasks, their
order and their mini-batches come from its own random streams.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from reptile_scaling.interruption import StopRequested, stop_if_requested
from reptile_scaling.learning.cell_result import finish_cell
from reptile_scaling.learning.cell_training import CellTraining, begin_cell
from reptile_scaling.learning.evaluation import evaluate, test_loop, validation_episodes
from reptile_scaling.learning.meta_step import meta_step
from reptile_scaling.learning.selection import evaluation_is_due, has_passed_its_best
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.runs.cell_directory import CellDirectory
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

SECONDS_BETWEEN_CHECKPOINTS = 60.0


def train_cohort(workbench: Workbench, cells: Sequence[Cell], run: RunDirectory) -> None:
    """Trains the cells to the end, from their checkpoints where there are any, and writes their results.

    A cell whose parameters stop being finite is recorded as failed; the others go on. A requested stop finishes the
    step in progress and saves checkpoints.
    """
    trainings = _begin_cells(workbench, [run.cell(cell) for cell in cells])
    try:
        _train(workbench, trainings)
        for training in trainings:
            if not training.is_diverged:
                finish_cell(workbench, training)
    except StopRequested:
        for training in trainings:
            if not training.is_diverged:
                training.save()
                training.folder.write_status(replace(training.status, state="pending"))
        raise


def _train(workbench: Workbench, trainings: Sequence[CellTraining]) -> None:
    """Meta-steps of all cells until each is at its last one; validation and checkpoints on the way."""
    config, saved = workbench.config, time.monotonic()
    for training in trainings:
        # At the start, and where a stop came between a step and its evaluation.
        if evaluation_is_due(training.state.meta_step, config) and not training.is_validated:
            _validate(workbench, training)
            training.save()
    while active := [t for t in trainings if not t.is_over]:
        outcomes = meta_step(workbench, [t.state for t in active], [t.next_visits() for t in active])
        for training, outcome in zip(active, outcomes, strict=True):
            training.take(outcome)
        going_on = [t for t in active if not t.is_diverged]
        stop_if_requested()
        due = [t for t in going_on if evaluation_is_due(t.state.meta_step, config)]
        for training in due:
            _validate(workbench, training)
        if due or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            for training in going_on:
                training.save()
            saved = time.monotonic()


def _validate(workbench: Workbench, training: CellTraining) -> None:
    began, state = time.perf_counter(), training.state
    episodes, loop = validation_episodes(workbench), test_loop(workbench.config)
    figures = evaluate(workbench.engine, state.initialisation, episodes, loop, state.inner_moments)
    training.validated(figures, time.perf_counter() - began)


def _begin_cells(workbench: Workbench, folders: Sequence[CellDirectory]) -> list[CellTraining]:
    """Cells at their newest common checkpoint, so that they go on in the lockstep an uninterrupted run has.

    Without a common one each takes its own newest: nothing is lost, and results agree within float tolerance. A cell
    that had ended before the others by its own validation losses stays ended.
    """
    found = [{c.meta_step: c for c in folder.read_checkpoints()} for folder in folders]
    going_on = [
        set(steps) for folder, steps in zip(folders, found, strict=True) if not (steps and _is_ended(workbench, folder))
    ]
    common = set.intersection(*going_on) if going_on else set()
    newest = max(common, default=None)
    starts = []
    for steps in found:
        # One that ended later than the common step was still in the lockstep there.
        step = newest if newest in steps else max(steps, default=None)
        starts.append(steps[step] if step is not None else None)
    return [begin_cell(workbench, folder, start) for folder, start in zip(folders, starts, strict=True)]


def _is_ended(workbench: Workbench, folder: CellDirectory) -> bool:
    return has_passed_its_best(folder.read_eval_stats(), workbench.config)
