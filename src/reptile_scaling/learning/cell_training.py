"""One cell on its way: its tasks in order, what it has learned, what has been logged, and the files it keeps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from reptile_scaling.config import Config
from reptile_scaling.data.episodes import TaskPool, training_pool, visiting_order
from reptile_scaling.learning.evaluation import QueryLosses
from reptile_scaling.learning.meta_state import MetaState, fresh_state, restored
from reptile_scaling.learning.meta_step import Outcome, Visit
from reptile_scaling.learning.selection import (
    MEAN,
    Chosen,
    better,
    has_passed_its_best,
    restored_choice,
    restored_mean,
    running_mean,
)
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.randomness import stream
from reptile_scaling.runs.cell_directory import CellDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import CellStatus, Checkpoint, EvalRow, TrainRow

SECONDS_BETWEEN_STATUSES = 1.0


@runtime_checkable
class ScalarLog(Protocol):
    """Where a cell's curves go besides its tables."""

    def add(self, meta_step: int, scalars: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


@dataclass
class CellTraining:
    """A cell between its first meta-step and its result."""

    cell: Cell
    config: Config
    folder: CellDirectory
    pool: TaskPool
    order: np.ndarray
    """Tasks in the order they are visited."""
    state: MetaState
    chosen: Chosen | None
    """The best point on validation tasks so far, where `select` is `best`."""
    mean: Adapters | None
    """The running mean of θ, where `select` is `mean`."""
    wall_seconds: float
    train_rows: list[TrainRow]
    eval_rows: list[EvalRow]
    status: CellStatus = field(default_factory=CellStatus)
    is_diverged: bool = False
    events: ScalarLog | None = None
    told: float = 0.0
    """When the status was last written, by a clock that never jumps."""

    def next_visits(self) -> list[Visit]:
        """The tasks of the next meta-step."""
        size = self.config.meta_batch_size
        return [self._visit(self.state.meta_step * size + i) for i in range(size)]

    def _visit(self, position: int) -> Visit:
        task = int(self.order[position])
        # A round of the visiting order meets every task once, so the round's number is the visit's.
        visit = position // self.cell.n_tasks
        rng = stream(self.cell.seed, "inner_loop", self.cell.stream_name, position)
        return Visit(self.pool.episode(task, visit), rng)

    def take(self, outcome: Outcome) -> None:
        """Goes on from what a meta-step did, or stays where it was and is marked as diverged."""
        if outcome.state is None:
            self.diverge(self.state.meta_step + 1)
            return
        self.state = outcome.state
        if self.mean is not None:
            self.mean = running_mean(self.mean, self.state.initialisation, self.state.meta_step)
        self.wall_seconds += outcome.seconds
        self.train_rows.append(
            TrainRow(
                meta_step=self.state.meta_step,
                support_loss_first_step=outcome.losses[0],
                support_loss_last_step=outcome.losses[-1],
                meta_lr=outcome.meta_lr,
                seconds=round(outcome.seconds, 6),
            )
        )
        tasks_per_second = self.config.meta_batch_size / outcome.seconds
        scalars = {"support_loss": outcome.losses[-1], "meta_lr": outcome.meta_lr, "tasks_per_second": tasks_per_second}
        if self.events:
            self.events.add(self.state.meta_step, scalars)
        self.status = replace(
            self.status,
            meta_step=self.state.meta_step,
            support_loss=outcome.losses[-1],
            tasks_per_second=tasks_per_second,
            wall_seconds=self.wall_seconds,
        )
        if time.monotonic() - self.told > SECONDS_BETWEEN_STATUSES:
            self.tell()

    def validated(self, figures: QueryLosses, seconds: float) -> None:
        """Logs an evaluation on the validation tasks."""
        self.wall_seconds += seconds
        loss, accuracy = float(figures.loss.mean()), float(figures.accuracy.mean())
        zero_step = (float(figures.zero_step_accuracy.mean()), float(figures.zero_step_loss.mean()))
        self.eval_rows.append(EvalRow(self.state.meta_step, loss, accuracy, *zero_step))
        if self.config.select == "best":
            self.chosen = better(self.chosen, self.state, loss)
        if self.events:
            self.events.add(self.state.meta_step, {"validation_loss": loss, "validation_accuracy": accuracy})
        shown = loss if np.isfinite(loss) else None
        self.status = replace(
            self.status, validation_loss=shown, validation_accuracy=accuracy, wall_seconds=self.wall_seconds
        )
        self.tell()

    @property
    def start(self) -> Chosen:
        """The initialisation that is read on the test tasks and kept as the adapter."""
        if self.chosen is not None:
            return self.chosen
        loss = self.eval_rows[-1].validation_loss if self.eval_rows else float("nan")
        theta = self.mean if self.mean is not None else self.state.initialisation
        return Chosen(theta, self.state.inner_moments, self.state.meta_step, loss)

    @property
    def is_over(self) -> bool:
        """Whether no meta-step is left to it: all done, past its best, or diverged."""
        is_last = self.state.meta_step >= self.config.num_meta_steps
        return is_last or self.is_diverged or has_passed_its_best(self.eval_rows, self.config)

    @property
    def is_validated(self) -> bool:
        """Whether validation has seen this meta-step's parameters."""
        return bool(self.eval_rows) and self.eval_rows[-1].meta_step == self.state.meta_step

    def tell(self) -> None:
        """Writes the status now."""
        self.folder.write_status(self.status)
        self.told = time.monotonic()

    def diverge(self, meta_step: int) -> None:
        """Marks the cell as failed for good."""
        self.is_diverged = True
        reason = (
            f"parameters stopped being finite in meta-step {meta_step}: "
            "lower inner_lr or meta_lr and run it in another folder"
        )
        self.folder.write_status(replace(self.status, state="failed", meta_step=meta_step, reason=reason))

    def done(self) -> CellStatus:
        """The status of a cell that has its result."""
        return replace(self.status, state="done")

    def save(self) -> None:
        """Statistics first: rows past the checkpoint are dropped when the cell resumes."""
        self.folder.write_train_stats(self.train_rows)
        self.folder.write_eval_stats(self.eval_rows)
        tensors = self.state.tensors()
        if self.chosen is not None:
            tensors |= self.chosen.tensors()
        if self.mean is not None:
            tensors |= {MEAN + name: tensor.cpu().numpy() for name, tensor in self.mean.tensors.items()}
        self.folder.write_checkpoint(Checkpoint(self.state.meta_step, self.wall_seconds, tensors))


def begin_cell(workbench: Workbench, folder: CellDirectory, start: Checkpoint | None) -> CellTraining:
    """A cell at a checkpoint, or before its first meta-step: also where no checkpoint is whole, and says so."""
    config, cell = workbench.config, folder.cell
    damage = folder.damage() if start is None else ""
    folder.write_config(config)
    state, chosen = fresh_state(workbench, cell.seed), None
    mean = state.initialisation if config.select == "mean" else None
    if start is not None:
        state = restored(state, start.meta_step, start.tensors)
        chosen = restored_choice(start.tensors, workbench.engine.backbone.device)
        mean = restored_mean(mean, start.tensors)
    training = CellTraining(
        cell=cell,
        config=config,
        folder=folder,
        pool=training_pool(workbench.corpus.dataset, workbench.corpus.split, config, cell.seed, cell.stream_name),
        order=visiting_order(cell.n_tasks, config.num_meta_steps * config.meta_batch_size, cell.seed, cell.stream_name),
        state=state,
        chosen=chosen,
        mean=mean,
        wall_seconds=start.wall_seconds if start is not None else 0.0,
        # Without a checkpoint nothing vouches for the tables either.
        train_rows=[row for row in folder.read_train_stats() if row.meta_step <= state.meta_step] if start else [],
        eval_rows=[row for row in folder.read_eval_stats() if row.meta_step <= state.meta_step] if start else [],
        status=CellStatus(
            "running",
            state.meta_step,
            config.num_meta_steps,
            workbench.device,
            reason=f"started anew, for {damage}" if damage else "",
        ),
        events=folder.open_events(state.meta_step) if config.tensorboard else None,
    )
    training.tell()
    return training
