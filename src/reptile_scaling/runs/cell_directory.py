"""The folder of a cell: every file that one cell writes, and what it resumes from."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.numpy
from safetensors import safe_open

from reptile_scaling.config import Config
from reptile_scaling.errors import InputError
from reptile_scaling.runs.event_files import EventFile
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.model_card import model_card
from reptile_scaling.runs.records import (
    CellResult,
    CellStatus,
    Checkpoint,
    Confusion,
    CurvePoint,
    EvalRow,
    InnerRate,
    MetaTestTask,
    TrainRow,
)
from reptile_scaling.storage import (
    named_refusals,
    read_record,
    read_rows,
    write_bytes,
    write_json,
    write_record,
    write_rows,
)


def read_status(folder: Path) -> CellStatus:
    """Of the cell in a folder: pending where nothing whole is written, done where there is a result."""
    try:
        status = read_record(folder / "status.json", CellStatus) or CellStatus()
    except InputError:
        status = CellStatus()
    return replace(status, state="done") if (folder / "final_result.json").is_file() else status


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

    def open_events(self, resumed_at: int) -> EventFile:
        """TensorBoard's curves of this cell; what was written past `resumed_at` is superseded."""
        return EventFile(self.events_folder, resumed_at)

    def write_card(self, config: Config, dataset: str, result: CellResult, is_encoder: bool) -> None:
        """The README.md that travels with the adapter."""
        write_bytes(self.adapter_folder / "README.md", model_card(config, dataset, result, is_encoder).encode())

    def write_config(self, config: Config) -> None:
        write_json(self.path / "config.json", {**config.model_dump(mode="json"), **asdict(self.cell)})

    def write_train_stats(self, rows: Sequence[TrainRow]) -> None:
        write_rows(self.path / f"{self.cell.name}_train_stats.csv", TrainRow, rows)

    def write_eval_stats(self, rows: Sequence[EvalRow]) -> None:
        write_rows(self.path / f"{self.cell.name}_eval_stats.csv", EvalRow, rows)

    def read_train_stats(self) -> list[TrainRow]:
        return read_rows(self.path / f"{self.cell.name}_train_stats.csv", TrainRow)

    def read_eval_stats(self) -> list[EvalRow]:
        return read_rows(self.path / f"{self.cell.name}_eval_stats.csv", EvalRow)

    def write_status(self, status: CellStatus) -> None:
        write_record(self.path / "status.json", replace(status, updated=time.time()))

    def read_status(self) -> CellStatus:
        """Pending where nothing whole has been written; done, whatever it says, where there is a result."""
        return read_status(self.path)

    @property
    def is_done(self) -> bool:
        return (self.path / "final_result.json").is_file()

    def write_result(self, result: CellResult, test_tasks: Sequence[MetaTestTask]) -> None:
        """The result last: its presence is what marks the cell as done."""
        write_rows(self.path / "test_tasks.csv", MetaTestTask, test_tasks)
        write_record(self.path / "final_result.json", result)

    def read_result(self) -> CellResult:
        result = read_record(self.path / "final_result.json", CellResult)
        assert result is not None, self.path
        return result

    def read_test_tasks(self) -> list[MetaTestTask]:
        return read_rows(self.path / "test_tasks.csv", MetaTestTask)

    def write_confusions(self, counts: Sequence[Confusion]) -> None:
        write_rows(self.path / "test_confusions.csv", Confusion, counts)

    def read_confusions(self) -> list[Confusion]:
        """Empty where none are written; version 0.1 wrote them as JSON, which is not looked at."""
        return read_rows(self.path / "test_confusions.csv", Confusion)

    def write_inner_rates(self, rates: Sequence[InnerRate]) -> None:
        """No file where rates are not learned."""
        if rates:
            write_rows(self.path / "inner_rates.csv", InnerRate, rates)

    def read_inner_rates(self) -> list[InnerRate]:
        """Empty where they were not learned."""
        return read_rows(self.path / "inner_rates.csv", InnerRate)

    def write_adaptation_curve(self, points: Sequence[CurvePoint]) -> None:
        write_rows(self.path / "adaptation_curve.csv", CurvePoint, points)

    def read_adaptation_curve(self) -> list[CurvePoint]:
        """Empty where this cell measured none."""
        return read_rows(self.path / "adaptation_curve.csv", CurvePoint)

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


def _read_checkpoint(path: Path) -> Checkpoint:
    with safe_open(path, framework="numpy") as file:
        progress = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return Checkpoint(int(progress["meta_step"]), float(progress["wall_seconds"]), tensors)
