"""What the files of a run hold, as frozen dataclasses; `reptile_scaling.storage` writes and reads them."""

import os
import socket
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from reptile_scaling.config import Config, without_gone
from reptile_scaling.runs.grid import Cell

CellState = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True)
class Provenance:
    """`experiment.json`: what a folder belongs to."""

    config: Annotated[Config, BeforeValidator(without_gone)]
    data_fingerprint: str
    """SHA-256 of the data."""
    versions: dict[str, str]
    """Of Python and the packages, and the git commit where there was one."""
    base_sha256: str = ""
    """Of the base's weights; empty where they were not downloaded yet when the run began."""


@dataclass(frozen=True)
class TrainRow:
    """One meta-step of one cell. Losses in nats per support utterance, means over the meta-batch."""

    meta_step: int
    support_loss_first_step: float
    """Before the first inner step."""
    support_loss_last_step: float
    """Before the last inner step."""
    meta_lr: float
    seconds: float
    """This cell's share of its cohort's time."""


@dataclass(frozen=True)
class EvalRow:
    """One evaluation on the validation tasks; the loss in nats per query utterance."""

    meta_step: int
    validation_loss: float
    validation_accuracy: float
    zero_step_accuracy: float
    zero_step_loss: float | None = None
    """Before any inner step: above ln(n_way) under a meta-learned classifier, it remembers slots."""


@dataclass(frozen=True)
class MetaTestTask:
    """One of the shared test tasks after the inner loop; the loss in nats per query utterance."""

    task: int
    """Its place in the pool `test`."""
    loss: float
    accuracy: float
    zero_step_accuracy: float
    """Before the inner loop."""
    calibration_error: float | None = None
    """Expected calibration error of its own few answers, so above 0 by chance alone; earlier versions have none."""


@dataclass(frozen=True)
class InnerRate:
    """A learned rate of the inner loop."""

    matrix: str
    """As in the adapter's files: `<site>.lora_A`, `<site>.lora_B`, `head.weight` …"""
    inner_step: int
    """From 1."""
    rate: float


@dataclass(frozen=True)
class CurvePoint:
    """Query loss (nats per utterance) and accuracy after so many inner steps, means over the test tasks."""

    inner_step: int
    loss: float
    accuracy: float
    inner_lr: float | None = None
    """The rate that was best at this number of steps on validation tasks, or the factor on all rates where a cell has
    learned them; none before the first step."""
    validation_loss: float | None = None
    """At that rate; with no step, of the head that tasks start from."""


@dataclass(frozen=True)
class PoolTask:
    """A task of a pool: its classes in slot order and, where it owns them, its utterance numbers by class."""

    task: int
    classes: list[str]
    support: list[list[int]] | None = None
    query: list[list[int]] | None = None


@dataclass(frozen=True)
class Confusion:
    """How often query utterances of a class were taken for which class, over all test tasks."""

    true_class: str = field(metadata={"column": "class"})
    predicted: str
    n: int


@dataclass(frozen=True)
class CellStatus:
    """Where a cell stands; rewritten about once a second while it runs."""

    state: CellState = "pending"
    meta_step: int = 0
    num_meta_steps: int = 0
    device: str = ""
    support_loss: float | None = None
    """After the inner loop, nats per utterance, mean over the last meta-batch."""
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    tasks_per_second: float | None = None
    wall_seconds: float = 0.0
    """This cell's share of the time its cohort has taken."""
    updated: float = 0.0
    """Unix time of this status: the heartbeat."""
    reason: str = ""
    """Why a failed cell failed, and what to do; of another that it was started anew, and why."""


@dataclass(frozen=True)
class Worker:
    """A process that trains on one device, and what it settled before its first step."""

    name: str
    device: str
    tasks_in_flight: int
    peak_memory_bytes: float
    memory: str
    """The memory formula with its figures."""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    updated: float = 0.0
    """Unix time of its last sign of life."""


@dataclass(frozen=True)
class CellResult:
    """`final_result.json`. Losses in nats per query utterance; means and standard deviations over test tasks."""

    n_tasks: int
    seed: int
    meta_test_loss: float
    meta_test_loss_std: float
    meta_test_accuracy: float
    meta_test_accuracy_std: float
    zero_step_accuracy: float
    meta_steps: int
    distinct_classes: int
    distinct_utterances: int
    visits_per_task: float
    wall_seconds: float
    """This cell's share of its cohort's training and evaluation time."""
    tasks_per_second: float
    """Tasks adapted per second of meta-training, without evaluation."""
    num_meta_test_tasks: int
    chance_accuracy: float
    tokens_per_second: float | None = None
    """Support tokens through an inner step (forward and backward) per second of meta-training."""
    axis: str = "n_tasks"
    axis_value: int | str | None = None
    """The cell's level of another axis than n_tasks, as configured."""
    x: float | None = None
    """That level as a number."""
    selected_meta_step: int | None = None
    """Where the initialisation of all figures above was taken: the best on validation tasks, or the last."""
    last_meta_test_loss: float | None = None
    """Of the last meta-step's initialisation, whatever was selected."""
    last_meta_test_accuracy: float | None = None
    calibration_error: float | None = None
    """Expected calibration error of the answers of all test tasks together, in probability."""
    calibration_error_by_chance: float | None = None
    """What as many answers show that are right as often as they say."""

    @property
    def cell(self) -> Cell:
        """The cell this is the result of."""
        return Cell(self.n_tasks, self.seed, self.axis, self.axis_value)

    @property
    def level(self) -> float:
        """Where the cell stands on the axis of the law."""
        return float(self.n_tasks) if self.x is None else self.x


@dataclass(frozen=True)
class PooledResult(CellResult):
    """A cell's result in the table of several class splits."""

    class_split: str = ""


@dataclass(frozen=True)
class BaselineResult:
    """One baseline on the shared test tasks; `loss` is null where there is none or it diverged."""

    name: str
    label: str
    accuracy: float
    accuracy_std: float
    loss: float | None
    loss_std: float | None
    seconds_per_task: float
    settings: dict[str, Any]
    task_accuracies: list[float]
    task_losses: list[float] | None
    adaptation_curve: list[CurvePoint] = field(default_factory=list)
    """Of the pretrained start, where this baseline measures it, on the tasks that cells draw theirs on."""
    is_rival: bool | None = None
    """Whether meta-training has to beat it; version 0.1 did not say."""
    initialisations: list[list[float]] = field(default_factory=list)
    """Accuracies on every test task from each initialisation, where a baseline has any."""
    takes_same_loop: bool = False
    """Whether it adapts by the inner loop that cells are tested with, so that meta-training meets it there."""

    def is_of_seeds(self, n_seeds: int) -> bool:
        """Whether it began as often as there are seeds, which may have become more; one without a beginning always."""
        return not self.initialisations or len(self.initialisations) >= n_seeds


@dataclass(frozen=True)
class TaskReading:
    """A test task after some inner steps at the rate that is best there; the loss in nats per query utterance."""

    inner_step: int
    task: int
    """Its place in the pool `test`."""
    loss: float
    accuracy: float


@dataclass(frozen=True)
class BaselineStatus:
    """A baseline that is not measured yet; rewritten about once a second while it is."""

    name: str
    done: int = 0
    """Of the equal parts of its work."""
    of: int = 0
    """All of them; 0 until it has begun."""
    seconds: float = 0.0
    """Since it began."""

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before there is one."""
        return self.seconds * (self.of - self.done) / self.done if self.done else None


@dataclass(frozen=True)
class Filling:
    """How far a worker's cache of shared activations is, in this start."""

    worker: str
    utterances: int = 0
    at_most: int = 0
    """Utterances that the sweep can meet."""
    tokens: int = 0
    seconds: float = 0.0
    """Spent on filling alone."""
    updated: float = 0.0
    """Unix time of the last forward."""


@dataclass(frozen=True)
class BaselineFailure:
    """A baseline that raised, and what it said."""

    name: str
    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """What a cell resumes from."""

    meta_step: int
    wall_seconds: float
    tensors: dict[str, np.ndarray]
