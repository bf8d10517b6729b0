"""A trained cell on the shared test tasks: its result, its adapter, and what it confuses."""

import time
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from reptile_scaling.config import Config
from reptile_scaling.data.episodes import coverage
from reptile_scaling.disk import named_refusals
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.budget import Start
from reptile_scaling.learning.cell_training import CellTraining
from reptile_scaling.learning.curve import measure_with_curve
from reptile_scaling.learning.evaluation import (
    QueryLosses,
    count_confusions,
    evaluate,
    test_episodes,
    test_loop,
)
from reptile_scaling.learning.inner_rates import rate_table
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.model.adapter_facts import adaptation_facts
from reptile_scaling.model.peft_io import save_adapter
from reptile_scaling.model.shipped_weights import name_to_load
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import CellResult, MetaTestTask

if TYPE_CHECKING:
    from reptile_scaling.laws import CalibrationError

CHANCE_DRAWS = 40
"""Enough for the mean that perfectly calibrated answers show."""


def finish_cell(workbench: Workbench, training: CellTraining) -> None:
    """Meta-test of the selected and of the last initialisation, the adapter, and last the result that marks the cell
    as done."""
    config, folder, chosen = training.config, training.folder, training.start
    began = time.perf_counter()
    episodes, loop, start = test_episodes(workbench), test_loop(config), Start(chosen.theta, chosen.inner_moments)
    if config.curve_steps:
        figures, curve = measure_with_curve(workbench, start)
        folder.write_adaptation_curve(curve.points)
        folder.write_curve_readings(curve.readings)
    else:
        figures = evaluate(workbench.engine, start.theta, episodes, loop, start.moments)
    last = figures
    if chosen.meta_step != training.state.meta_step or training.mean is not None:
        state = training.state
        last = evaluate(workbench.engine, state.initialisation, episodes, loop, state.inner_moments)
    training.wall_seconds += time.perf_counter() - began
    result = _result(workbench, training, figures, last)
    if not np.isfinite(result.meta_test_loss):
        training.diverge(training.state.meta_step)
        return
    _write_adapter(workbench, training, result)
    folder.write_inner_rates(rate_table(chosen.theta))
    folder.write_confusions(count_confusions(episodes, figures.predicted, workbench.corpus.dataset.class_names))
    from reptile_scaling.laws import calibration_errors  # a cell that begins does not wait for scipy.stats

    columns = zip(
        figures.loss.tolist(),
        figures.accuracy.tolist(),
        figures.zero_step_accuracy.tolist(),
        calibration_errors(figures.after.confidence, _hits(figures, config)).round(6).tolist(),
        strict=True,
    )
    test_tasks = [MetaTestTask(i, *of_task) for i, of_task in enumerate(columns)]
    folder.write_result(result, test_tasks)
    folder.write_status(training.done())


def _result(workbench: Workbench, training: CellTraining, figures: QueryLosses, last: QueryLosses) -> CellResult:
    config, cell, meta_step = training.config, training.cell, training.state.meta_step
    training_seconds = sum(row.seconds for row in training.train_rows)
    selected = training.start.meta_step
    n_visits = meta_step * config.meta_batch_size
    n_used = selected * config.meta_batch_size
    reads_query = ALGORITHMS[config.algorithm].reads_query or config.inner_rates == "learned"
    seen = coverage(training.pool, training.order[:n_used], reads_query)
    is_finite = bool(np.isfinite(figures.loss).all())
    calibration = _calibration(figures, config) if is_finite else None
    return CellResult(
        n_tasks=cell.n_tasks,
        seed=cell.seed,
        meta_test_loss=float(figures.loss.mean()),
        meta_test_loss_std=_spread(figures.loss),
        meta_test_accuracy=float(figures.accuracy.mean()),
        meta_test_accuracy_std=_spread(figures.accuracy),
        zero_step_accuracy=float(figures.zero_step_accuracy.mean()),
        meta_steps=meta_step,
        distinct_classes=seen.distinct_classes,
        distinct_utterances=seen.distinct_utterances,
        visits_per_task=n_used / cell.n_tasks,
        wall_seconds=training.wall_seconds,
        tasks_per_second=n_visits / training_seconds,
        num_meta_test_tasks=len(figures.loss),
        chance_accuracy=1 / config.n_way,
        tokens_per_second=n_visits * config.k_inner * workbench.tokens_per_inner_step / training_seconds,
        axis=cell.axis,
        axis_value=cell.value,
        x=_place_on_axis(workbench, cell),
        selected_meta_step=selected,
        last_meta_test_loss=float(last.loss.mean()),
        last_meta_test_accuracy=float(last.accuracy.mean()),
        calibration_error=calibration.value if calibration else None,
        calibration_error_by_chance=calibration.of_chance if calibration else None,
    )


def _hits(figures: QueryLosses, config: Config) -> Float[np.ndarray, "T Q"]:
    """1 where a query utterance was given its own slot; query sets go class by class in slot order."""
    own = np.repeat(np.arange(config.n_way), figures.predicted.shape[1] // config.n_way)
    return np.asarray(figures.predicted == own, dtype=np.float64)


def _calibration(figures: QueryLosses, config: Config) -> "CalibrationError":
    """Of all answers on all test tasks."""
    from reptile_scaling.laws import calibration_error

    correct = _hits(figures, config).astype(bool).ravel()
    return calibration_error(figures.after.confidence.ravel(), correct, n_bootstrap=CHANCE_DRAWS)


def _spread(figures: np.ndarray) -> float:
    """Standard deviation over tasks; 0 of a single one."""
    return float(figures.std(ddof=1)) if len(figures) > 1 else 0.0


def _place_on_axis(workbench: Workbench, cell: Cell) -> float | None:
    """A level's number; a model's is its size."""
    if isinstance(cell.value, str):
        return float(workbench.n_parameters)
    return None if cell.value is None else float(cell.value)


def _write_adapter(workbench: Workbench, training: CellTraining, result: CellResult) -> None:
    config, chosen, path = training.config, training.start, training.folder.adapter_folder
    with named_refusals(path):
        backbone, facts = workbench.engine.backbone, adaptation_facts(config)
        save_adapter(path, backbone, chosen.theta, config.model_name, facts, chosen.inner_moments)
        base = name_to_load(config.model_name)
        training.folder.write_card(config, workbench.corpus.dataset.name, result, base, backbone.is_encoder)
