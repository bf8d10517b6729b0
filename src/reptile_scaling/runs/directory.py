"""The folder of a run: what the sweep writes there, and the folders of its cells."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reptile_scaling.config import MAY_CHANGE, Config, as_recorded, keys_with
from reptile_scaling.disk import named_refusals
from reptile_scaling.errors import InputError
from reptile_scaling.runs.cell_directory import CellDirectory, read_status
from reptile_scaling.runs.grid import Cell, grid
from reptile_scaling.runs.lease import HOLDING, held
from reptile_scaling.runs.records import (
    BaselineFailure,
    BaselineResult,
    BaselineStatus,
    CellResult,
    Filling,
    PooledResult,
    PoolTask,
    Provenance,
    Worker,
)
from reptile_scaling.runs.tracker_notes import TOLD, TrackerNotes
from reptile_scaling.storage import (
    Record,
    read_lines,
    read_record,
    seal,
    unseal,
    write_json,
    write_lines,
    write_record,
    write_rows,
    write_sealed,
)


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
    def paper_folder(self) -> Path:
        """Tables and figures for a paper."""
        return self.path / "paper"

    @property
    def trackers_folder(self) -> Path:
        """For trackers that write into a folder."""
        return self.path / "trackers"

    def law_notes(self, name: str) -> TrackerNotes:
        """What trackers have been told of a law."""
        return TrackerNotes(self.path / TOLD / name)

    def tracker_failures(self) -> dict[str, str]:
        """Why a tracker hears no more, by its name: the first reason of several."""
        found: dict[str, str] = {}
        for path in sorted([*self.path.glob(f"*/{TOLD}"), *self.path.glob(f"{TOLD}/*")]):
            found = TrackerNotes(path).failures() | found
        return found

    @property
    def title(self) -> str:
        """What trackers call the run: its folder's name, after that of the run of several class splits it lies in."""
        folder = self.path.resolve()
        return f"{folder.parent.name}-{folder.name}" if RunDirectory(folder.parent).is_begun else folder.name

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def begin(self, config: Config, data_fingerprint: str, versions: dict[str, str], base_sha256: str = "") -> None:
        """Takes the folder for this experiment. InputError if it already holds another one, and nothing is touched.

        A grid that grew is the same experiment; the recorded one is then replaced by the larger.
        """
        found = self._read_experiment()
        if found is None and self.path.is_dir() and any(p.name not in HOLDING for p in self.path.iterdir()):
            raise InputError(f"folder {str(self.path)!r} is not empty and holds no experiment: choose another --out")
        if found is not None:
            self._check_same(found, Provenance(config, data_fingerprint, versions, base_sha256))
            base_sha256 = base_sha256 or found.base_sha256
        with named_refusals(self.path):
            for unfinished in self.path.rglob(".*.part"):  # of writes that were killed
                unfinished.unlink()
        unseal(self.path)
        write_sealed(self.path / "experiment.json", Provenance(config, data_fingerprint, versions, base_sha256))

    def _check_same(self, found: Provenance, wanted: Provenance) -> None:
        # A key that is younger than the folder had its default then.
        recorded = found.config.model_dump(mode="json")
        for key, value in wanted.config.model_dump(mode="json").items():
            # More class splits are the same experiment; one split and several are not.
            may_change = key in keys_with(MAY_CHANGE) and (
                key != "class_splits" or (recorded[key] is None) == (value is None)
            )
            if not may_change and recorded[key] != value:
                raise InputError(
                    f"folder {str(self.path)!r} holds an experiment with {key} = {recorded[key]!r}, and "
                    f"this one has {value!r}: choose another --out, or set {key} back to go on with it"
                )
        if found.data_fingerprint != wanted.data_fingerprint:
            raise InputError(
                f"folder {str(self.path)!r} holds an experiment on other data (SHA-256 "
                f"{found.data_fingerprint[:12]}, now {wanted.data_fingerprint[:12]}): choose another --out, or "
                "restore it"
            )
        if found.base_sha256 and wanted.base_sha256 and found.base_sha256 != wanted.base_sha256:
            raise InputError(
                f"folder {str(self.path)!r} holds an experiment on another base called {wanted.config.model_name!r} "
                f"(SHA-256 {found.base_sha256[:12]}, now {wanted.base_sha256[:12]}): choose another --out, or restore "
                "the base"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against a second process; InputError if one has it."""
        with held(self.path):
            yield

    @property
    def is_begun(self) -> bool:
        """Whether a run has taken this folder."""
        return self._read_experiment() is not None

    def _read_experiment(self) -> Provenance | None:
        found = read_record(self.path / "experiment.json", Provenance)
        return replace(found, config=as_recorded(found.config)) if found is not None else None

    def experiment(self) -> Provenance:
        """What the folder belongs to. InputError where it holds no run."""
        found = self._read_experiment()
        if found is None:
            raise InputError(f"folder {str(self.path)!r} holds no experiment: give the --out folder of a run")
        return found

    def config(self) -> Config:
        """The configuration the folder's run was started with."""
        return self.experiment().config

    def split_run(self, name: str) -> "RunDirectory":
        """The run of one of several class splits, by the split's name."""
        return RunDirectory(self.path / f"split_{name}")

    def split_runs(self) -> "dict[str, RunDirectory]":
        """Of a folder of several class splits the run of each that has begun, by the split's name; else none."""
        runs = {name: self.split_run(name) for name in self.config().split_configs}
        return {name: run for name, run in runs.items() if run.is_begun}

    def cells(self) -> list[Cell]:
        """The grid, by level and seed."""
        return grid(self.config())

    def results(self) -> list[CellResult]:
        """The results of the cells that are done."""
        return [self.cell(cell).read_result() for cell in self.cells() if self.cell(cell).is_done]

    def write_pool(self, name: str, tasks: Sequence[PoolTask]) -> None:
        """`task_pools/<name>.jsonl`: a task a line."""
        write_lines(self.path / "task_pools" / f"{name}.jsonl", tasks)

    def seal_pools(self) -> None:
        """Once all are written."""
        seal(self.path / "task_pools")

    def unseal_pools(self) -> None:
        """Before they are written anew."""
        unseal(self.path / "task_pools")

    def read_pool(self, name: str) -> list[PoolTask]:
        """The tasks of a pool; empty where it is not written."""
        return read_lines(self.path / "task_pools" / f"{name}.jsonl", PoolTask)

    def write_worker(self, worker: Worker) -> None:
        """`workers/<name>.json`, now: the heartbeat."""
        write_record(self.path / "workers" / f"{worker.name}.json", replace(worker, updated=time.time()))

    def forget_workers(self) -> None:
        """Those of an earlier start."""
        for folder in ("workers", "filling"):
            for file in (self.path / folder).glob("*.json"):
                file.unlink()

    def write_filling(self, filling: Filling) -> None:
        """`filling/<worker>.json`, now."""
        write_record(self.path / "filling" / f"{filling.worker}.json", replace(filling, updated=time.time()))

    def read_fillings(self) -> list[Filling]:
        """Of every worker of the run's last start that shares activations."""
        return list(self._read_records("filling", Filling).values())

    def read_workers(self) -> list[Worker]:
        """Every worker of the run's last start, by name."""
        return list(self._read_records("workers", Worker).values())

    def pooled_results(self) -> list[PooledResult]:
        """The results of the cells that are done in every split, in the order of the splits."""
        return [
            PooledResult(**vars(result), class_split=name)
            for name, run in self.split_runs().items()
            for result in run.results()
        ]

    def write_pooled_table(self) -> None:
        """`scaling_law_results.csv` of several class splits."""
        unseal(self.path)
        write_rows(self.path / "scaling_law_results.csv", PooledResult, self.pooled_results())

    def write_results_table(self) -> None:
        unseal(self.path)
        write_rows(self.path / "scaling_law_results.csv", CellResult, self.results())

    def write_baseline(self, result: BaselineResult) -> None:
        write_sealed(self.path / "baselines" / f"{result.name}.json", result)
        self._left_path(result.name).unlink(missing_ok=True)

    def write_baseline_failure(self, name: str, reason: str) -> None:
        """A baseline that raised; the next start tries it again."""
        write_record(self.path / "baselines_failed" / f"{name}.json", BaselineFailure(name, reason))
        self._left_path(name).unlink(missing_ok=True)

    def expect_baselines(self, names: Sequence[str]) -> None:
        """`baselines_left/<name>.json`: what this start has to measure; what an earlier one had is forgotten."""
        for file in (self.path / "baselines_left").glob("*.json"):
            file.unlink()
        for name in names:
            self.write_baseline_status(BaselineStatus(name))

    def write_baseline_status(self, status: BaselineStatus) -> None:
        write_record(self._left_path(status.name), status)

    def _left_path(self, name: str) -> Path:
        return self.path / "baselines_left" / f"{name}.json"

    def read_baselines_left(self) -> dict[str, BaselineStatus]:
        """Baselines that the last start has not measured yet, by name; one that trains a cell is as far as that is."""
        found = self._read_records("baselines_left", BaselineStatus)
        return {name: self._with_its_cell(status) for name, status in found.items()}

    def read_baseline_failures(self) -> dict[str, str]:
        """Reasons by name, of baselines that are not done."""
        done = self.read_baselines()
        found = self._read_records("baselines_failed", BaselineFailure)
        return {name: failure.reason for name, failure in found.items() if name not in done}

    def read_baselines(self) -> dict[str, BaselineResult]:
        """Finished baselines by name."""
        found = self._read_records("baselines", BaselineResult)
        # Version 0.1 did not write is_rival, and had one baseline that is none.
        return {n: b if b.is_rival is not None else replace(b, is_rival=n != "zero_step") for n, b in found.items()}

    def read_baselines_of(self, n_seeds: int) -> dict[str, BaselineResult]:
        """Those that need not be measured anew for so many seeds."""
        return {name: result for name, result in self.read_baselines().items() if result.is_of_seeds(n_seeds)}

    def _read_records(self, folder: str, kind: type[Record]) -> dict[str, Record]:
        """The JSON files of a folder by their stems; one that goes meanwhile is not among them."""
        files = sorted((self.path / folder).glob("*.json"))
        return {file.stem: record for file in files if (record := read_record(file, kind)) is not None}

    def _with_its_cell(self, told: BaselineStatus) -> BaselineStatus:
        """Of a baseline that counts cells and is training one in its folder: in meta-steps of all of them."""
        files = sorted(self.baseline_folder(told.name).glob("*/*/status.json"))
        cells = [read_status(file.parent) for file in files]
        running = next((cell for cell in cells if cell.state == "running"), None)
        if running is None or not told.of:
            return told
        done = told.done * running.num_meta_steps + running.meta_step
        seconds = sum(cell.wall_seconds for cell in cells)
        return BaselineStatus(told.name, done, told.of * running.num_meta_steps, seconds)

    def write_fit(self, law: Mapping[str, object]) -> None:
        write_json(self.path / "power_law_fit.json", law)

    def read_fit(self) -> dict[str, Any]:
        """What `write_fit` wrote."""
        return dict(json.loads((self.path / "power_law_fit.json").read_bytes()))

    def read_summary(self) -> dict[str, Any]:
        """What `write_summary` wrote."""
        return dict(json.loads((self.path / "summary_report.json").read_bytes()))

    def write_summary(self, summary: Mapping[str, object]) -> None:
        write_json(self.path / "summary_report.json", summary)

    def seal_report(self) -> None:
        """Once table, law, figures, summary and page are written."""
        seal(self.path)
