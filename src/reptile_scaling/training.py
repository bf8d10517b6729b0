"""Meta-training: a cohort of cells in lockstep on one device, with checkpoints.

R cells × meta_batch_size tasks share every forward. A cell's result does not depend on its cohort: its tasks, their
order and their mini-batches come from its own random streams.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from reptile_scaling.adaptation import adapt, training_loop
from reptile_scaling.algorithms import META_UPDATES
from reptile_scaling.config import Config
from reptile_scaling.evaluation import (
    adaptation_curve,
    count_confusions,
    evaluate,
    starting_points,
    test_episodes,
    test_loop,
    validation_episodes,
)
from reptile_scaling.event_files import EventFile
from reptile_scaling.experiment import Experiment, fresh_initialisation
from reptile_scaling.interruption import StopRequested, stop_if_requested
from reptile_scaling.labelling import adaptation_facts
from reptile_scaling.model.adapters import Adapters, join_adapters
from reptile_scaling.model.peft_io import save_adapter
from reptile_scaling.model_card import model_card
from reptile_scaling.randomness import stream
from reptile_scaling.runs import Cell, CellDirectory, CellResult, CellStatus, Checkpoint, RunDirectory
from reptile_scaling.storage import named_refusals
from reptile_scaling.tasks import Episode, TaskPool, coverage, training_pool, visiting_order

SECONDS_BETWEEN_STATUSES = 1.0
SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass
class CellTraining:
    """A cell on its way: the initialisation θ after `meta_step` steps, and what has been logged."""

    cell: Cell
    folder: CellDirectory
    pool: TaskPool
    order: np.ndarray
    theta: Adapters
    meta_step: int
    wall_seconds: float
    train_rows: list[dict[str, Any]]
    eval_rows: list[dict[str, Any]]
    status: CellStatus = field(default_factory=CellStatus)
    is_diverged: bool = False
    events: EventFile | None = None
    told: float = 0.0
    """When the status was last written, by a clock that never jumps."""

    def episode_and_rng(self, position: int) -> tuple[Episode, np.random.Generator]:
        """The task at a place of the visiting order, and the stream of this visit's mini-batches."""
        task = int(self.order[position])
        # A round of the visiting order meets every task once, so the round's number is the visit's.
        visit = position // self.cell.n_tasks
        return self.pool.episode(task, visit), stream(self.cell.seed, "inner_loop", self.cell.name, position)


def train_cohort(experiment: Experiment, cells: Sequence[Cell], run: RunDirectory) -> None:
    """Trains the cells to the end, from their checkpoints where there are any, and writes their results.

    A cell whose parameters stop being finite is recorded as failed; the others go on. A requested stop finishes the
    step in progress and saves checkpoints.
    """
    config = experiment.config
    trainings = _begin_cells(experiment, [run.cell(cell) for cell in cells])
    saved = time.monotonic()
    try:
        while active := [t for t in trainings if t.meta_step < config.num_meta_steps and not t.is_diverged]:
            _meta_step(experiment, active)
            active = [t for t in active if not t.is_diverged]
            stop_if_requested()
            for training in [t for t in active if _evaluation_is_due(t.meta_step, config)]:
                _validate(experiment, training)
            is_due = any(_evaluation_is_due(t.meta_step, config) for t in active)
            if is_due or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                _save(active)
                saved = time.monotonic()
        for training in trainings:
            if not training.is_diverged:
                _finish_cell(experiment, training)
    except StopRequested:
        going_on = [t for t in trainings if not t.is_diverged]
        _save(going_on)
        for training in going_on:
            training.folder.write_status(replace(training.status, state="pending"))
        raise


def _evaluation_is_due(meta_step: int, config: Config) -> bool:
    return meta_step % config.eval_interval == 0 or meta_step == config.num_meta_steps


def _begin_cells(experiment: Experiment, folders: Sequence[CellDirectory]) -> list[CellTraining]:
    """Cells at their newest common checkpoint, so that they go on in the lockstep an uninterrupted run has.

    Without a common one each takes its own newest: nothing is lost, and results agree within float tolerance.
    """
    found = [{c.meta_step: c for c in folder.read_checkpoints()} for folder in folders]
    common = set.intersection(*(set(steps) for steps in found))
    starts = [steps[max(common or steps)] if steps else Checkpoint(0, 0.0, {}) for steps in found]
    return [_begin_cell(experiment, folder, start) for folder, start in zip(folders, starts, strict=True)]


def _begin_cell(experiment: Experiment, folder: CellDirectory, start: Checkpoint) -> CellTraining:
    config, cell = experiment.config, folder.cell
    folder.write_config(config)
    theta = fresh_initialisation(experiment, cell.seed)
    if start.tensors:
        device = experiment.encoder.backbone.device
        theta = Adapters({name: torch.from_numpy(tensor).to(device) for name, tensor in start.tensors.items()})
    n_visits = config.num_meta_steps * config.meta_batch_size
    training = CellTraining(
        cell=cell,
        folder=folder,
        pool=training_pool(experiment.corpus.dataset, experiment.corpus.split, config, cell.seed),
        order=visiting_order(cell.n_tasks, n_visits, cell.seed, cell.name),
        theta=theta,
        meta_step=start.meta_step,
        wall_seconds=start.wall_seconds,
        train_rows=[row for row in folder.read_train_stats() if row["meta_step"] <= start.meta_step],
        eval_rows=[row for row in folder.read_eval_stats() if row["meta_step"] <= start.meta_step],
        status=CellStatus("running", start.meta_step, config.num_meta_steps, experiment.device),
        events=EventFile(folder.events_folder, start.meta_step) if config.tensorboard else None,
    )
    _write_status(training)
    return training


def _meta_step(experiment: Experiment, trainings: Sequence[CellTraining]) -> None:
    """One meta-step of every cell: all their tasks in one inner loop, then each cell's own update."""
    config = experiment.config
    began = time.perf_counter()
    batch = config.meta_batch_size
    visits = [t.episode_and_rng(t.meta_step * batch + i) for t in trainings for i in range(batch)]
    episodes, rngs = zip(*visits, strict=True)
    starts = [starting_points(t.theta, batch, config.head) for t in trainings]
    owners = [r for r in range(len(trainings)) for _ in range(batch)]
    adapted = adapt(experiment.encoder, join_adapters(starts), episodes, training_loop(config), rngs, owners)
    for r, training in enumerate(trainings):
        own = slice(r * batch, (r + 1) * batch)
        meta_lr = scheduled_meta_lr(config, training.meta_step)
        theta = META_UPDATES[config.algorithm](training.theta, adapted.adapters.rows(own), meta_lr)
        training.meta_step += 1
        if theta.is_finite():
            training.theta = theta
            seconds = (time.perf_counter() - began) / len(trainings)
            _log_step(training, adapted.losses[:, own].mean(1).tolist(), meta_lr, seconds, config)
        else:
            _record_divergence(training)


def scheduled_meta_lr(config: Config, meta_step: int) -> float:
    """ε of a meta-step: constant, or falling linearly from meta_lr at step 0 to 0 after the last (Reptile, §6)."""
    if config.meta_lr_schedule == "constant":
        return config.meta_lr
    return config.meta_lr * (1 - meta_step / config.num_meta_steps)


def _log_step(training: CellTraining, losses: list[float], meta_lr: float, seconds: float, config: Config) -> None:
    training.wall_seconds += seconds
    training.train_rows.append(
        {
            "meta_step": training.meta_step,
            "support_loss_first_step": losses[0],
            "support_loss_last_step": losses[-1],
            "meta_lr": meta_lr,
            "seconds": round(seconds, 6),
        }
    )
    tasks_per_second = config.meta_batch_size / seconds
    if training.events:
        training.events.add(
            training.meta_step, {"support_loss": losses[-1], "meta_lr": meta_lr, "tasks_per_second": tasks_per_second}
        )
    training.status = replace(
        training.status,
        meta_step=training.meta_step,
        support_loss=losses[-1],
        tasks_per_second=tasks_per_second,
        wall_seconds=training.wall_seconds,
    )
    if time.monotonic() - training.told > SECONDS_BETWEEN_STATUSES:
        _write_status(training)


def _write_status(training: CellTraining) -> None:
    training.folder.write_status(training.status)
    training.told = time.monotonic()


def _record_divergence(training: CellTraining) -> None:
    training.is_diverged = True
    reason = (
        f"parameters stopped being finite in meta-step {training.meta_step}: "
        "lower inner_lr or meta_lr and run it in another folder"
    )
    training.folder.write_status(replace(training.status, state="failed", meta_step=training.meta_step, reason=reason))


def _validate(experiment: Experiment, training: CellTraining) -> None:
    began = time.perf_counter()
    episodes, loop = validation_episodes(experiment), test_loop(experiment.config)
    figures = evaluate(experiment.encoder, training.theta, episodes, loop)
    training.wall_seconds += time.perf_counter() - began
    training.eval_rows.append(
        {
            "meta_step": training.meta_step,
            "validation_loss": float(figures.loss.mean()),
            "validation_accuracy": float(figures.accuracy.mean()),
            "zero_step_accuracy": float(figures.zero_step_accuracy.mean()),
        }
    )
    loss, accuracy = float(figures.loss.mean()), float(figures.accuracy.mean())
    if training.events:
        training.events.add(training.meta_step, {"validation_loss": loss, "validation_accuracy": accuracy})
    training.status = replace(
        training.status, validation_loss=loss, validation_accuracy=accuracy, wall_seconds=training.wall_seconds
    )
    _write_status(training)


def _save(trainings: Sequence[CellTraining]) -> None:
    """Statistics first: rows past the checkpoint are dropped when the cell resumes."""
    for training in trainings:
        training.folder.write_train_stats(training.train_rows)
        training.folder.write_eval_stats(training.eval_rows)
        tensors = {name: tensor.cpu().numpy() for name, tensor in training.theta.tensors.items()}
        training.folder.write_checkpoint(Checkpoint(training.meta_step, training.wall_seconds, tensors))


def _finish_cell(experiment: Experiment, training: CellTraining) -> None:
    """Meta-test on the shared pool, the adapter, and last the result that marks the cell as done."""
    config, cell = experiment.config, training.cell
    began = time.perf_counter()
    episodes = test_episodes(experiment)
    figures = evaluate(experiment.encoder, training.theta, episodes, test_loop(config))
    if cell.seed == config.seeds[0]:
        curve_episodes = episodes[: config.num_validation_tasks]
        training.folder.write_adaptation_curve(
            adaptation_curve(experiment.encoder, training.theta, curve_episodes, test_loop(config))
        )
    training.wall_seconds += time.perf_counter() - began
    training_seconds = sum(row["seconds"] for row in training.train_rows)
    n_visits = training.meta_step * config.meta_batch_size
    seen = coverage(training.pool, training.order[:n_visits])
    result = CellResult(
        n_tasks=cell.n_tasks,
        seed=cell.seed,
        meta_test_loss=float(figures.loss.mean()),
        meta_test_loss_std=float(figures.loss.std(ddof=1)) if len(figures.loss) > 1 else 0.0,
        meta_test_accuracy=float(figures.accuracy.mean()),
        meta_test_accuracy_std=float(figures.accuracy.std(ddof=1)) if len(figures.loss) > 1 else 0.0,
        zero_step_accuracy=float(figures.zero_step_accuracy.mean()),
        meta_steps=training.meta_step,
        distinct_classes=seen.distinct_classes,
        distinct_utterances=seen.distinct_utterances,
        visits_per_task=n_visits / cell.n_tasks,
        wall_seconds=training.wall_seconds,
        tasks_per_second=n_visits / training_seconds,
        num_meta_test_tasks=len(figures.loss),
        chance_accuracy=1 / config.n_way,
        tokens_per_second=n_visits * config.k_inner * experiment.tokens_per_inner_step / training_seconds,
    )
    if not np.isfinite(result.meta_test_loss):
        _record_divergence(training)
        return
    card = model_card(config, experiment.corpus.dataset.name, result)
    with named_refusals(training.folder.adapter_folder):
        facts = adaptation_facts(config)
        folder, backbone = training.folder.adapter_folder, experiment.encoder.backbone
        save_adapter(folder, backbone, training.theta, config.model_name, card, facts)
    columns = {"loss": figures.loss, "accuracy": figures.accuracy, "zero_step_accuracy": figures.zero_step_accuracy}
    test_tasks = [{"task": i, **{name: float(c[i]) for name, c in columns.items()}} for i in range(len(figures.loss))]
    if training.events:
        training.events.close()
    training.folder.write_confusions(
        count_confusions(episodes, figures.predicted, experiment.corpus.dataset.class_names)
    )
    training.folder.write_result(result, test_tasks)
    training.folder.write_status(replace(training.status, state="done"))
