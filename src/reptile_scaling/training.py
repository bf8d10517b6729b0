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

from reptile_scaling.algorithms import ALGORITHMS
from reptile_scaling.algorithms.algorithm import MetaBatch, TaskGradients
from reptile_scaling.algorithms.outer import OuterMoments, outer_adam, outer_sgd
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode, TaskPool, coverage, training_pool, visiting_order
from reptile_scaling.evaluation import (
    adaptation_curve,
    count_confusions,
    evaluate,
    starting_points,
    test_episodes,
    test_loop,
    training_loop,
    validation_episodes,
)
from reptile_scaling.event_files import EventFile
from reptile_scaling.experiment import Experiment, fresh_initialisation
from reptile_scaling.interruption import StopRequested, stop_if_requested
from reptile_scaling.labelling import adaptation_facts
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_WEIGHT, LORA_A, LORA_B, Adapters, join_adapters
from reptile_scaling.model.heads import HEADS
from reptile_scaling.model.peft_io import save_adapter
from reptile_scaling.model_card import model_card
from reptile_scaling.randomness import stream
from reptile_scaling.runs import Cell, CellDirectory, CellResult, CellStatus, Checkpoint, RunDirectory
from reptile_scaling.storage import named_refusals

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
    """With the algorithm's own parameters, where it has any."""
    outer_moments: OuterMoments | None
    inner_moments: AdamMoments | None
    meta_step: int
    wall_seconds: float
    train_rows: list[dict[str, Any]]
    eval_rows: list[dict[str, Any]]
    status: CellStatus = field(default_factory=CellStatus)
    is_diverged: bool = False
    events: EventFile | None = None
    told: float = 0.0
    """When the status was last written, by a clock that never jumps."""

    @property
    def initialisation(self) -> Adapters:
        """What tasks start from."""
        return without_own_parameters(self.theta)

    def episode_and_rng(self, position: int) -> tuple[Episode, np.random.Generator]:
        """The task at a place of the visiting order, and the stream of this visit's mini-batches."""
        task = int(self.order[position])
        # A round of the visiting order meets every task once, so the round's number is the visit's.
        visit = position // self.cell.n_tasks
        return self.pool.episode(task, visit), stream(self.cell.seed, "inner_loop", self.cell.stream_name, position)


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
    theta, outer_moments, inner_moments = first_state(experiment, cell.seed, start)
    n_visits = config.num_meta_steps * config.meta_batch_size
    training = CellTraining(
        cell=cell,
        folder=folder,
        pool=training_pool(experiment.corpus.dataset, experiment.corpus.split, config, cell.seed, cell.stream_name),
        order=visiting_order(cell.n_tasks, n_visits, cell.seed, cell.stream_name),
        theta=theta,
        outer_moments=outer_moments,
        inner_moments=inner_moments,
        meta_step=start.meta_step,
        wall_seconds=start.wall_seconds,
        train_rows=[row for row in folder.read_train_stats() if row["meta_step"] <= start.meta_step],
        eval_rows=[row for row in folder.read_eval_stats() if row["meta_step"] <= start.meta_step],
        status=CellStatus("running", start.meta_step, config.num_meta_steps, experiment.device),
        events=EventFile(folder.events_folder, start.meta_step) if config.tensorboard else None,
    )
    _write_status(training)
    return training


def without_own_parameters(theta: Adapters) -> Adapters:
    """θ without what belongs to the algorithm: LoRA and head."""
    names = [name for name in theta.tensors if name.endswith((LORA_A, LORA_B)) or name in (HEAD_WEIGHT, HEAD_BIAS)]
    return Adapters({name: theta.tensors[name] for name in names})


OUTER_MEAN, OUTER_SQUARE, INNER_SQUARE, INNER_STEPS = "outer_mean/", "outer_square/", "inner_square/", "inner_steps"
"""How a checkpoint names what belongs to θ's tensors."""


def first_state(
    experiment: Experiment, seed: int, start: Checkpoint | None = None
) -> tuple[Adapters, OuterMoments | None, AdamMoments | None]:
    """θ and the optimisers' moments, fresh or from a checkpoint."""
    config = experiment.config
    theta = fresh_initialisation(experiment, seed)
    device = experiment.encoder.backbone.device
    inner_moments = AdamMoments.none_yet(theta) if config.keep_second_moments else None
    if (own := ALGORITHMS[config.algorithm].own_parameters) is not None:
        extra = own(len(experiment.corpus.split.train), experiment.encoder.backbone.width)
        theta = Adapters(theta.tensors | {name: tensor.to(device) for name, tensor in extra.items()})
    zeros = theta.map(torch.zeros_like)
    outer_moments = OuterMoments(zeros, zeros) if config.meta_optimizer == "adam" else None
    if start is None or not start.tensors:
        return theta, outer_moments, inner_moments
    saved = {name: torch.from_numpy(tensor).to(device) for name, tensor in start.tensors.items()}

    def part(prefix: str, like: Adapters) -> Adapters:
        return Adapters({name: saved[prefix + name] for name in like.tensors})

    if outer_moments is not None:
        outer_moments = OuterMoments(part(OUTER_MEAN, theta), part(OUTER_SQUARE, theta))
    if inner_moments is not None:
        inner_moments = AdamMoments(part(INNER_SQUARE, inner_moments.squares), saved[INNER_STEPS])
    return part("", theta), outer_moments, inner_moments


def _state(training: CellTraining) -> dict[str, torch.Tensor]:
    """What `first_state` needs to go on."""
    tensors = dict(training.theta.tensors)
    if (outer := training.outer_moments) is not None:
        for prefix, moments in ((OUTER_MEAN, outer.mean), (OUTER_SQUARE, outer.square)):
            tensors |= {prefix + name: tensor for name, tensor in moments.tensors.items()}
    if (inner := training.inner_moments) is not None:
        tensors |= {INNER_SQUARE + name: tensor for name, tensor in inner.squares.tensors.items()}
        tensors[INNER_STEPS] = inner.steps
    return tensors


def _meta_step(experiment: Experiment, trainings: Sequence[CellTraining]) -> None:
    """One meta-step of every cell: all their tasks in one inner loop, then each cell's own update."""
    config = experiment.config
    began = time.perf_counter()
    batch = config.meta_batch_size
    visits = [t.episode_and_rng(t.meta_step * batch + i) for t in trainings for i in range(batch)]
    episodes, rngs = zip(*visits, strict=True)
    owned = [slice(r * batch, (r + 1) * batch) for r in range(len(trainings))]
    starts = [
        starting_points(experiment.encoder, t.theta, [episode.classes for episode in episodes[own]], config.head)
        for t, own in zip(trainings, owned, strict=True)
    ]
    kept = [t.inner_moments.repeated(batch) for t in trainings if t.inner_moments is not None]
    meta_batch = MetaBatch(
        theta=join_adapters(starts),
        episodes=episodes,
        loop=training_loop(config),
        rngs=rngs,
        owners=[r for r in range(len(trainings)) for _ in range(batch)],
        train_classes=experiment.corpus.split.train,
        moments=AdamMoments.join(kept) if kept else None,
    )
    found = ALGORITHMS[config.algorithm].task_gradients(experiment.encoder, meta_batch)
    for training, own in zip(trainings, owned, strict=True):
        meta_lr = scheduled_meta_lr(config, training.meta_step)
        moved = _outer_step(training, found, own, meta_lr, config)
        training.meta_step += 1
        if moved:
            seconds = (time.perf_counter() - began) / len(trainings)
            _log_step(training, found.losses[:, own].mean(1).tolist(), meta_lr, seconds, config)
        else:
            _record_divergence(training)


def _outer_step(training: CellTraining, found: TaskGradients, own: slice, meta_lr: float, config: Config) -> bool:
    """Moves a cell's θ against the mean of its tasks' gradients; False, and it stays, where that is not finite."""
    gradient = found.gradients.rows(own).map(lambda tensor: tensor.mean(0))
    if not HEADS[config.head].is_meta_learned:
        still = {name: torch.zeros_like(gradient.tensors[name]) for name in (HEAD_WEIGHT, HEAD_BIAS)}
        gradient = Adapters(gradient.tensors | still)
    outer_moments = training.outer_moments
    if outer_moments is None:
        theta = outer_sgd(training.theta, gradient, meta_lr)
    else:
        theta, outer_moments = outer_adam(training.theta, gradient, outer_moments, meta_lr, training.meta_step)
    if not theta.is_finite():
        return False
    training.theta, training.outer_moments = theta, outer_moments
    if found.moments is not None:
        training.inner_moments = found.moments.rows(own).mean()
    return True


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
    figures = evaluate(experiment.encoder, training.initialisation, episodes, loop, training.inner_moments)
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
        tensors = {name: tensor.cpu().numpy() for name, tensor in _state(training).items()}
        training.folder.write_checkpoint(Checkpoint(training.meta_step, training.wall_seconds, tensors))


def _place_on_axis(experiment: Experiment, cell: Cell) -> float | None:
    """A level's number; a model's is its size."""
    if isinstance(cell.value, str):
        return float(experiment.n_parameters)
    return None if cell.value is None else float(cell.value)


def _finish_cell(experiment: Experiment, training: CellTraining) -> None:
    """Meta-test on the shared pool, the adapter, and last the result that marks the cell as done."""
    config, cell = experiment.config, training.cell
    began = time.perf_counter()
    episodes = test_episodes(experiment)
    start, moments = training.initialisation, training.inner_moments
    figures = evaluate(experiment.encoder, start, episodes, test_loop(config), moments)
    if cell.seed == config.seeds[0]:
        curve_episodes = episodes[: config.num_validation_tasks]
        training.folder.write_adaptation_curve(
            adaptation_curve(experiment.encoder, start, curve_episodes, test_loop(config), moments)
        )
    training.wall_seconds += time.perf_counter() - began
    training_seconds = sum(row["seconds"] for row in training.train_rows)
    n_visits = training.meta_step * config.meta_batch_size
    seen = coverage(training.pool, training.order[:n_visits], ALGORITHMS[config.algorithm].reads_query)
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
        axis=cell.axis,
        axis_value=cell.value,
        x=_place_on_axis(experiment, cell),
    )
    if not np.isfinite(result.meta_test_loss):
        _record_divergence(training)
        return
    card = model_card(config, experiment.corpus.dataset.name, result)
    with named_refusals(training.folder.adapter_folder):
        facts = adaptation_facts(config)
        folder, backbone = training.folder.adapter_folder, experiment.encoder.backbone
        save_adapter(folder, backbone, start, config.model_name, card, facts, moments)
    columns = {"loss": figures.loss, "accuracy": figures.accuracy, "zero_step_accuracy": figures.zero_step_accuracy}
    test_tasks = [{"task": i, **{name: float(c[i]) for name, c in columns.items()}} for i in range(len(figures.loss))]
    if training.events:
        training.events.close()
    training.folder.write_confusions(
        count_confusions(episodes, figures.predicted, experiment.corpus.dataset.class_names)
    )
    training.folder.write_result(result, test_tasks)
    training.folder.write_status(replace(training.status, state="done"))
