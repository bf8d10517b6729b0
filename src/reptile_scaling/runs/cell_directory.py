"""The folder of a cell: every file that one cell writes, and what it resumes from."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.numpy
from safetensors import SafetensorError

from reptile_scaling.config import Config
from reptile_scaling.errors import InputError, StorageError
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.lease import LEASE, held
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
    TaskReading,
    TrainRow,
)
from reptile_scaling.runs.tracker_notes import TOLD, TrackerNotes
from reptile_scaling.seals import BLANK, BrokenSeal, sha256
from reptile_scaling.storage import (
    csv_text,
    move,
    read_record,
    read_rows,
    read_tensors,
    seal,
    unseal,
    write_bytes,
    write_json,
    write_record,
    write_rows,
    write_sealed,
    write_tensors,
)

STATISTICS = "statistics_sha256"
"""How a checkpoint's metadata names the digest of the tables beside it."""


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
    def tracker_notes(self) -> TrackerNotes:
        """What trackers have been told of this cell."""
        return TrackerNotes(self.path / TOLD)

    def check_nobody_computes(self) -> None:
        """InputError where a process holds this cell: a Slurm job that has outlived the run which submitted it."""
        if (self.path / LEASE).exists():
            with held(self.path):
                pass

    def write_card(self, config: Config, dataset: str, result: CellResult, base: str, is_encoder: bool) -> None:
        """The README.md that travels with the adapter of `base`, a name that transformers loads."""
        write_bytes(self.adapter_folder / "README.md", model_card(config, dataset, result, base, is_encoder).encode())

    def write_config(self, config: Config) -> None:
        """First of all: what follows is not sealed until the result is written."""
        unseal(self.path)
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
        """Every file of the cell is sealed, and last comes the result: its presence is what marks the cell as done."""
        write_rows(self.path / "test_tasks.csv", MetaTestTask, test_tasks)
        seal(self.path)
        write_sealed(self.path / "final_result.json", result)

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

    def write_curve_readings(self, readings: Sequence[TaskReading]) -> None:
        """Every test task at each number of inner steps of the adaptation curve."""
        write_rows(self.path / "curve_tasks.csv", TaskReading, readings)

    def read_curve_readings(self) -> list[TaskReading]:
        """Empty where this cell measured no curve."""
        return read_rows(self.path / "curve_tasks.csv", TaskReading)

    def write_adaptation_curve(self, points: Sequence[CurvePoint]) -> None:
        write_rows(self.path / "adaptation_curve.csv", CurvePoint, points)

    def read_adaptation_curve(self) -> list[CurvePoint]:
        """Empty where this cell measured none."""
        return read_rows(self.path / "adaptation_curve.csv", CurvePoint)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """One safetensors file, replaced whole; the one before it is kept. It vouches for the statistics until then."""
        progress = {"meta_step": str(checkpoint.meta_step), "wall_seconds": repr(checkpoint.wall_seconds)}
        progress |= {STATISTICS: self._statistics_digest(checkpoint.meta_step)} | BLANK
        content = safetensors.numpy.save(checkpoint.tensors, metadata=progress)
        newest, before = self._checkpoint_paths
        if newest.exists():
            move(newest, before)
        write_tensors(newest, content)

    def read_checkpoints(self) -> list[Checkpoint]:
        """Those that are as they were written, newest first. StorageError where the disk refuses to read one."""
        return [found for path in self._checkpoint_paths if isinstance(found := self._tried(path), Checkpoint)]

    def damage(self) -> str:
        """Why there are checkpoints and none that is whole; empty where that is not so."""
        tried = [found for path in self._checkpoint_paths if (found := self._tried(path)) is not None]
        torn = [found for found in tried if isinstance(found, str)]
        return torn[0] if torn and len(torn) == len(tried) else ""

    def _tried(self, path: Path) -> Checkpoint | str | None:
        """A checkpoint, or in a clause what is wrong with it; None where there is none."""
        try:
            return self._read_checkpoint(path) if path.exists() else None
        except StorageError:  # the disk may read it the next time
            raise
        except (BrokenSeal, SafetensorError, KeyError, TypeError, ValueError) as error:
            return f"{path.name} is not whole ({' '.join(str(error).split())})"

    def _read_checkpoint(self, path: Path) -> Checkpoint:
        content = read_tensors(path) or b""
        tensors = safetensors.numpy.load(content)
        progress = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        meta_step = int(progress["meta_step"])
        # Version 0.1's do not speak of the statistics.
        if progress.get(STATISTICS, digest := self._statistics_digest(meta_step)) != digest:
            raise BrokenSeal(f"the statistics beside it are not those it was written with up to step {meta_step}")
        return Checkpoint(meta_step, float(progress["wall_seconds"]), tensors)

    def _statistics_digest(self, meta_step: int) -> str:
        """Of the rows up to a meta-step: the tables may have more when a cell is cut, and those are dropped."""
        train = [row for row in self.read_train_stats() if row.meta_step <= meta_step]
        validation = [row for row in self.read_eval_stats() if row.meta_step <= meta_step]
        return sha256((csv_text(TrainRow, train) + csv_text(EvalRow, validation)).encode())

    @property
    def _checkpoint_paths(self) -> tuple[Path, Path]:
        return self.path / "checkpoint.safetensors", self.path / "checkpoint_before.safetensors"
