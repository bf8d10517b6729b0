"""The run directory: the only place that knows file names and the fields of what is written. No torch."""

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from safetensors import safe_open

from reptile_scaling.axes import AXES
from reptile_scaling.config import Config
from reptile_scaling.errors import InputError
from reptile_scaling.storage import named_refusals, read_csv, read_json, write_bytes, write_csv, write_json

# Keys that may change between two starts of the same experiment: the grid may grow, the machine may differ.
CHANGEABLE_KEYS = frozenset(
    {
        "n_tasks_list",
        "axis_values",
        "seeds",
        "devices",
        "executor",
        "baselines",
        "cells_per_cohort",
        "max_tasks_in_flight",
        "memory_gb",
        "prefix_cache_dir",
        "tensorboard",
        "data_dir",
    }  # fmt: skip
)

CellState = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True)
class Cell:
    """One point of the grid; `value` is its level where the axis is not n_tasks."""

    n_tasks: int
    seed: int
    axis: str = "n_tasks"
    value: int | str | None = None

    @property
    def name(self) -> str:
        if self.value is None:
            return self.stream_name
        return f"{self.axis}_{re.sub('[^A-Za-z0-9.-]+', '-', str(self.value)).strip('-')}_seed_{self.seed}"

    @property
    def stream_name(self) -> str:
        """Names the random streams of its visits; levels of another axis than n_tasks share them."""
        return f"ntasks_{self.n_tasks}_seed_{self.seed}"

    @property
    def level_name(self) -> str:
        """`N = 50`; of a model its own name, without where it lies."""
        if isinstance(self.value, str):
            return self.value.rstrip("/").rsplit("/", 1)[-1]
        return f"{AXES[self.axis].symbol} = {self.n_tasks if self.value is None else self.value}"


def grid(config: Config) -> list[Cell]:
    """Every cell, by rising level (in the order given for names) and seed."""
    if config.axis == "n_tasks":
        return [Cell(n, seed) for n in sorted(config.n_tasks_list) for seed in sorted(config.seeds)]
    (n_tasks,) = config.n_tasks_list
    values, seeds = config.ordered_values, sorted(config.seeds)
    return [Cell(n_tasks, seed, config.axis, value) for value in values for seed in seeds]


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
    """Why a failed cell failed, and what to do."""


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

    @property
    def cell(self) -> Cell:
        """The cell this is the result of."""
        return Cell(self.n_tasks, self.seed, self.axis, self.axis_value)

    @property
    def level(self) -> float:
        """Where the cell stands on the axis of the law."""
        return float(self.n_tasks) if self.x is None else self.x


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
    adaptation_curve: list[dict[str, float | int]] = field(default_factory=list)
    """Of the pretrained start, where this baseline measures it: `inner_step`, `loss`, `accuracy` on the tasks that
    cells draw theirs on."""
    is_rival: bool = True
    """Whether meta-training has to beat it."""


@dataclass(frozen=True)
class Checkpoint:
    """What a cell resumes from."""

    meta_step: int
    wall_seconds: float
    tensors: dict[str, np.ndarray]


@dataclass(frozen=True)
class CellDirectory:
    """`ntasks_<N>_seed_<S>/`: everything one cell writes."""

    path: Path
    cell: Cell

    @property
    def adapter_folder(self) -> Path:
        """The meta-trained initialisation in PEFT's format."""
        return self.path / "adapter"

    @property
    def events_folder(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    def write_config(self, config: Config) -> None:
        write_json(self.path / "config.json", {**config.model_dump(mode="json"), **asdict(self.cell)})

    def write_train_stats(self, rows: Sequence[Mapping[str, object]]) -> None:
        write_csv(self.path / f"{self.cell.name}_train_stats.csv", rows)

    def write_eval_stats(self, rows: Sequence[Mapping[str, object]]) -> None:
        write_csv(self.path / f"{self.cell.name}_eval_stats.csv", rows)

    def read_train_stats(self) -> list[dict[str, Any]]:
        return read_csv(self.path / f"{self.cell.name}_train_stats.csv")

    def read_eval_stats(self) -> list[dict[str, Any]]:
        return read_csv(self.path / f"{self.cell.name}_eval_stats.csv")

    def write_status(self, status: CellStatus) -> None:
        write_json(self.path / "status.json", asdict(replace(status, updated=time.time())))

    def read_status(self) -> CellStatus:
        """Pending where nothing whole has been written; done, whatever it says, where there is a result."""
        return _read_status(self.path)

    @property
    def is_done(self) -> bool:
        return (self.path / "final_result.json").is_file()

    def write_result(self, result: CellResult, test_tasks: Sequence[Mapping[str, object]]) -> None:
        """The result last: its presence is what marks the cell as done."""
        write_csv(self.path / "test_tasks.csv", test_tasks)
        write_json(self.path / "final_result.json", asdict(result))

    def read_result(self) -> CellResult:
        fields = read_json(self.path / "final_result.json")
        assert fields is not None, self.path
        return CellResult(**fields)

    def read_test_tasks(self) -> list[dict[str, Any]]:
        return read_csv(self.path / "test_tasks.csv")

    def write_confusions(self, counts: Sequence[Mapping[str, object]]) -> None:
        """How often a test class was taken for which: `class`, `predicted`, `n`. In JSON a name stays a string."""
        write_json(self.path / "test_confusions.json", {"counts": list(counts)})

    def read_confusions(self) -> list[dict[str, Any]]:
        """Empty where none are written."""
        found = read_json(self.path / "test_confusions.json")
        return list(found["counts"]) if found is not None else []

    def write_adaptation_curve(self, rows: Sequence[Mapping[str, object]]) -> None:
        write_csv(self.path / "adaptation_curve.csv", rows)

    def read_adaptation_curve(self) -> list[dict[str, Any]]:
        """Empty where this cell measured none."""
        return read_csv(self.path / "adaptation_curve.csv")

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """One safetensors file, replaced whole; the one before it is kept."""
        progress = {"meta_step": str(checkpoint.meta_step), "wall_seconds": repr(checkpoint.wall_seconds)}
        content = safetensors.numpy.save(checkpoint.tensors, metadata=progress)
        newest, before = self._checkpoint_paths
        if newest.exists():
            with named_refusals(before):
                os.replace(newest, before)
        write_bytes(newest, content)

    def read_checkpoints(self) -> list[Checkpoint]:
        """Those that can be read, newest first; InputError where there are files and none is whole."""
        found, torn = [], None
        for path in self._checkpoint_paths:
            if path.exists():
                try:
                    found.append(_read_checkpoint(path))
                except Exception as error:  # safetensors raises its own class for a torn file
                    torn = f"checkpoint {str(path)!r} cannot be read ({error}): delete it to start this cell anew"
        if torn and not found:
            raise InputError(torn)
        return found

    @property
    def _checkpoint_paths(self) -> tuple[Path, Path]:
        return self.path / "checkpoint.safetensors", self.path / "checkpoint_before.safetensors"


def _read_status(folder: Path) -> CellStatus:
    try:
        fields = read_json(folder / "status.json")
    except InputError:
        fields = None
    status = CellStatus(**fields) if fields is not None else CellStatus()
    return replace(status, state="done") if (folder / "final_result.json").is_file() else status


def _read_checkpoint(path: Path) -> Checkpoint:
    with safe_open(path, framework="numpy") as file:
        progress = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return Checkpoint(int(progress["meta_step"]), float(progress["wall_seconds"]), tensors)


@dataclass(frozen=True)
class RunDirectory:
    """One experiment's folder: what the sweep writes, and its cells."""

    path: Path

    def cell(self, cell: Cell) -> CellDirectory:
        return CellDirectory(self.path / cell.name, cell)

    @property
    def plot_path(self) -> Path:
        return self.path / "scaling_law_plot.png"

    @property
    def baseline_plot_path(self) -> Path:
        return self.path / "baseline_comparison.png"

    def baseline_folder(self, name: str) -> Path:
        """What a baseline keeps to resume from, such as a cell that it trains."""
        return self.path / "baselines" / name

    def figure_path(self, name: str) -> Path:
        """PNG of a figure that only the page shows; an SVG lies beside it."""
        return self.path / "figures" / f"{name}.png"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def begin(self, config: Config, data_fingerprint: str, versions: dict[str, str]) -> None:
        """Takes the folder for this experiment. InputError if it already holds another one, and nothing is touched.

        A grid that grew is the same experiment; the recorded one is then replaced by the larger.
        """
        found = self._read_experiment()
        if found is None and self.path.is_dir() and any(p.name != ".lock" for p in self.path.iterdir()):
            raise InputError(f"folder {str(self.path)!r} is not empty and holds no experiment: choose another --out")
        settings = config.model_dump(mode="json")
        if found is not None:
            self._check_same(found, settings, data_fingerprint)
        with named_refusals(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        for unfinished in self.path.rglob(".*.part"):  # of writes that were killed
            unfinished.unlink()
        experiment = {"config": settings, "data_fingerprint": data_fingerprint, "versions": versions}
        write_json(self.path / "experiment.json", experiment)

    def _check_same(self, found: dict[str, Any], settings: dict[str, Any], data_fingerprint: str) -> None:
        # A key that is younger than the folder had its default then.
        recorded = {**Config().model_dump(mode="json"), **found["config"]}
        for key, value in settings.items():
            if key not in CHANGEABLE_KEYS and recorded[key] != value:
                raise InputError(
                    f"folder {str(self.path)!r} holds an experiment with {key} = {recorded[key]!r}, and "
                    f"this one has {value!r}: choose another --out, or set {key} back to go on with it"
                )
        if found["data_fingerprint"] != data_fingerprint:
            raise InputError(
                f"folder {str(self.path)!r} holds an experiment on other data (SHA-256 "
                f"{found['data_fingerprint'][:12]}, now {data_fingerprint[:12]}): choose another --out, or restore it"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against a second process; InputError if one has it."""
        with named_refusals(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / ".lock", "w")  # noqa: SIM115 (closed below)
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process is running in {str(self.path)!r}: wait for it, or choose another --out"
                ) from error
            yield

    @property
    def is_begun(self) -> bool:
        """Whether a run has taken this folder."""
        return self._read_experiment() is not None

    def _read_experiment(self) -> dict[str, Any] | None:
        return read_json(self.path / "experiment.json")

    def experiment(self) -> dict[str, Any]:
        """`experiment.json`: config, data fingerprint, versions. InputError where the folder holds no run."""
        found = self._read_experiment()
        if found is None:
            raise InputError(f"folder {str(self.path)!r} holds no experiment: give the --out folder of a run")
        return found

    def config(self) -> Config:
        """The configuration the folder's run was started with."""
        return Config.model_validate(self.experiment()["config"])

    def cells(self) -> list[Cell]:
        """The grid, by level and seed."""
        return grid(self.config())

    def results(self) -> list[CellResult]:
        """The results of the cells that are done."""
        return [self.cell(cell).read_result() for cell in self.cells() if self.cell(cell).is_done]

    def write_pool(self, name: str, tasks: Sequence[Mapping[str, object]]) -> None:
        """`task_pools/<name>.jsonl`: a task a line."""
        lines = "".join(json.dumps(task, separators=(",", ":")) + "\n" for task in tasks)
        write_bytes(self.path / "task_pools" / f"{name}.jsonl", lines.encode())

    def read_pool(self, name: str) -> list[dict[str, Any]]:
        """The tasks of a pool; empty where it is not written."""
        path = self.path / "task_pools" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def write_worker(self, worker: Worker) -> None:
        """`workers/<name>.json`, now: the heartbeat."""
        write_json(self.path / "workers" / f"{worker.name}.json", asdict(replace(worker, updated=time.time())))

    def forget_workers(self) -> None:
        """Those of an earlier start."""
        for file in (self.path / "workers").glob("*.json"):
            file.unlink()

    def read_workers(self) -> list[Worker]:
        """Every worker of the run's last start, by name."""
        files = sorted((self.path / "workers").glob("*.json"))
        return [Worker(**facts) for file in files if (facts := read_json(file)) is not None]

    def write_results_table(self) -> None:
        write_csv(self.path / "scaling_law_results.csv", [asdict(result) for result in self.results()])

    def write_baseline(self, result: BaselineResult) -> None:
        write_json(self.path / "baselines" / f"{result.name}.json", asdict(result))

    def write_baseline_failure(self, name: str, reason: str) -> None:
        """A baseline that raised; the next start tries it again."""
        write_json(self.path / "baselines_failed" / f"{name}.json", {"name": name, "reason": reason})

    def read_baseline_failures(self) -> dict[str, str]:
        """Reasons by name, of baselines that are not done."""
        files = sorted((self.path / "baselines_failed").glob("*.json"))
        found = {file.stem: str(fields["reason"]) for file in files if (fields := read_json(file)) is not None}
        return {name: reason for name, reason in found.items() if name not in self.read_baselines()}

    def read_baselines(self) -> dict[str, BaselineResult]:
        """Finished baselines by name."""
        files = sorted((self.path / "baselines").glob("*.json"))
        found = {file.stem: fields for file in files if (fields := read_json(file)) is not None}
        # Version 0.1 did not write is_rival, and had one baseline that is none.
        return {n: BaselineResult(**{"is_rival": n != "zero_step", **fields}) for n, fields in found.items()}

    def read_baseline_status(self, name: str) -> CellStatus | None:
        """Of the cell that a baseline is training in its folder; None where it trains none."""
        folders = sorted(path.parent for path in self.baseline_folder(name).glob("*/status.json"))
        statuses = [_read_status(folder) for folder in folders]
        return next((status for status in statuses if status.state == "running"), None)

    def write_fit(self, law: Mapping[str, object]) -> None:
        write_json(self.path / "power_law_fit.json", law)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        write_json(self.path / "summary_report.json", summary)
