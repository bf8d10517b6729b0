"""What performs a sweep's jobs on one device, and says that it lives."""

import contextlib
import math
import threading
import time
from dataclasses import replace
from pathlib import Path

from reptile_scaling.axes import AXES
from reptile_scaling.baselines import run_baseline
from reptile_scaling.config import Config
from reptile_scaling.errors import StorageError
from reptile_scaling.lab.estimate import utterances_at_most
from reptile_scaling.lab.plan import BaselineJob, CohortJob, Job
from reptile_scaling.learning.cohort import train_cohort
from reptile_scaling.learning.workbench import Corpus, Workbench, open_workbench
from reptile_scaling.model.devices import share_threads
from reptile_scaling.model.memory import is_device_lost, is_out_of_memory
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import BaselineStatus, Filling, Worker
from reptile_scaling.tracking.followers import followed

SECONDS_BETWEEN_HEARTBEATS = 5.0
SECONDS_BETWEEN_STATUSES = 1.0


class SweepWorker:
    """Performs jobs on one device; the model and its caches are opened once and kept between jobs."""

    def __init__(
        self, config: Config, corpus: Corpus, n_cpu_workers: int, title: str, root: Path, name: str, device: str
    ) -> None:
        if n_cpu_workers > 1 and device == "cpu":
            share_threads(n_cpu_workers)
        self._run, self._title = RunDirectory(root), title
        self._config, self._corpus, self._device, self._name = config, corpus, device, name
        self._opened: Workbench | None = None
        workbench = self._workbench_at(config.level_configs[-1])
        in_flight = workbench.engine.tasks_in_flight
        worker = Worker(name, device, in_flight, workbench.peak_memory_bytes, workbench.memory_sentence)
        self._run.write_worker(worker)
        self._closed = threading.Event()
        # The thread knows nothing of the model, which goes when this worker does.
        threading.Thread(target=_beat, args=(self._run, worker, self._closed), name="heartbeat", daemon=True).start()

    def __call__(self, job: Job) -> None:
        """What goes wrong with a job is recorded; what only the user can mend is raised. Of a job that comes anew, the
        cells that were done before are left as they are."""
        left = self._left_of(job)
        if left is not None:
            self._perform_or_record(left)

    def _left_of(self, job: Job) -> Job | None:
        match job:
            case BaselineJob(name):
                return None if name in self._run.read_baselines_of(len(self._config.seeds)) else job
            case CohortJob(cells):
                left = tuple(cell for cell in cells if not self._run.cell(cell).is_done)
                return CohortJob(left) if left else None

    def _perform_or_record(self, job: Job) -> None:
        reason = self._attempt(job)
        if reason is None:
            return
        match job:
            case CohortJob(cells) if len(cells) > 1:
                # One of them may be at fault: each goes on alone from its checkpoint.
                for cell in cells:
                    self(CohortJob((cell,)))
            case _:
                give_up(self._run, job, reason)

    def close(self) -> None:
        """No more signs of life."""
        self._closed.set()

    def _attempt(self, job: Job) -> str | None:
        """None where the job is done, or why it is not. Out of memory it is done in smaller groups of tasks."""
        while True:
            try:
                self._perform(job)
                return None
            except StorageError:
                raise
            except Exception as error:
                if is_device_lost(error):
                    raise
                if is_out_of_memory(error) and self._take_fewer_tasks():
                    continue
                return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def _perform(self, job: Job) -> None:
        match job:
            case BaselineJob(name):
                workbench = self._workbench_at(self._config.level_configs[-1])
                told = _BaselineTold(self._run, name)
                self._run.write_baseline(run_baseline(workbench, name, self._run.baseline_folder(name), told))
            case CohortJob(cells):
                workbench = self._workbench_at(self._level_of(cells[0]))
                with followed(self._run, cells, self._config.track, self._title):
                    train_cohort(workbench, cells, self._run)

    def _level_of(self, cell: Cell) -> Config:
        levels = self._config.level_configs
        return levels[0] if cell.value is None else next(x for x in levels if getattr(x, cell.axis) == cell.value)

    def _workbench_at(self, level: Config) -> Workbench:
        """The open one, if it has the level's model and LoRA; else that is loaded in place of the one before."""
        if self._opened is not None and (level == self._opened.config or AXES[level.axis].shares_model):
            return replace(self._opened, config=level)
        self._opened = None  # both at once may not fit
        filling = Filling(self._name, at_most=utterances_at_most(level, self._corpus))
        self._opened = open_workbench(level, self._corpus, self._device, _FillingTold(self._run, filling))
        return self._opened

    def _take_fewer_tasks(self) -> bool:
        """Halves the tasks in flight; False where one at a time is already too much."""
        if self._opened is None:
            return False
        engine = self._opened.engine
        used = min(engine.tasks_in_flight, self._config.tasks_per_step)
        engine.tasks_in_flight = max(1, used // 2)
        return used > 1


class _BaselineTold:
    """Writes how far a baseline is, about once a second, whichever of its threads tells it."""

    def __init__(self, run: RunDirectory, name: str) -> None:
        self._run, self._name, self._most = run, name, 0
        self._began, self._written = time.monotonic(), -math.inf
        self._telling = threading.Lock()

    def __call__(self, done: int, of: int) -> None:
        with self._telling:
            now, self._most = time.monotonic(), max(self._most, done)  # two threads may tell in either order
            if now - self._written >= SECONDS_BETWEEN_STATUSES:
                self._run.write_baseline_status(BaselineStatus(self._name, self._most, of, now - self._began))
                self._written = now


class _FillingTold:
    """Adds up the forwards that fill the cache, and writes how far it is about once a second."""

    def __init__(self, run: RunDirectory, filling: Filling) -> None:
        self._run, self._filling = run, filling
        self._last, self._written = time.monotonic(), -math.inf
        self._telling = threading.Lock()

    def __call__(self, n_utterances: int, n_tokens: int) -> None:
        """After each forward; of no utterance where filling begins."""
        with self._telling:
            now, so_far = time.monotonic(), self._filling
            took = now - self._last if n_utterances else 0.0
            self._last = now
            self._filling = replace(
                so_far,
                utterances=so_far.utterances + n_utterances,
                tokens=so_far.tokens + n_tokens,
                seconds=so_far.seconds + took,
            )
            if n_utterances and now - self._written >= SECONDS_BETWEEN_STATUSES:
                self._run.write_filling(self._filling)
                self._written = now


def _beat(run: RunDirectory, worker: Worker, closed: threading.Event) -> None:
    """Says every few seconds that a worker lives, until it is closed or its process ends."""
    while not closed.wait(SECONDS_BETWEEN_HEARTBEATS):
        with contextlib.suppress(OSError, StorageError):  # the step in progress will say so
            run.write_worker(worker)


def give_up(run: RunDirectory, job: Job, reason: str) -> None:
    """Records a job that no worker could do."""
    match job:
        case BaselineJob(name):
            run.write_baseline_failure(name, reason)
        case CohortJob(cells):
            for cell in cells:
                folder = run.cell(cell)
                if not folder.is_done:
                    folder.write_status(replace(folder.read_status(), state="failed", reason=reason))
