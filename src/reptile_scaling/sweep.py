"""The grid → cells → cohorts; what is done, what is left."""

import contextlib
import importlib.metadata
import platform
import subprocess
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from reptile_scaling.algorithms import ALGORITHMS
from reptile_scaling.axes import AXES
from reptile_scaling.baselines import BASELINES, run_baseline
from reptile_scaling.config import Config
from reptile_scaling.errors import InputError, StorageError
from reptile_scaling.event_files import check_event_files
from reptile_scaling.executors import map_devices
from reptile_scaling.experiment import Corpus, Experiment, open_corpus, open_experiment
from reptile_scaling.interruption import Flag
from reptile_scaling.model.heads import HEADS
from reptile_scaling.model.label_words import MOST_SYMBOLS
from reptile_scaling.model.loading import check_model, check_quantization, choose_devices, share_threads
from reptile_scaling.model.memory import is_device_lost, is_out_of_memory
from reptile_scaling.ray_executor import map_cluster
from reptile_scaling.runs import Cell, RunDirectory, Worker, grid
from reptile_scaling.tasks import TaskPool, check_class_counts, check_class_sizes, evaluation_pool, training_pool
from reptile_scaling.training import train_cohort

SECONDS_BETWEEN_HEARTBEATS = 5.0
RECORDED_PACKAGES = ("reptile-scaling-law", "torch", "transformers", "peft", "numpy", "scipy")


@dataclass(frozen=True)
class CohortJob:
    """Cells that train in lockstep."""

    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class BaselineJob:
    """One baseline on the shared test tasks."""

    name: str


Job = CohortJob | BaselineJob


@dataclass(frozen=True)
class Plan:
    """What a sweep will do, checked as far as that is possible without loading a model."""

    config: Config
    corpus: Corpus
    devices: tuple[str, ...]
    jobs: tuple[Job, ...]
    n_done: int

    def summary(self) -> list[str]:
        """The work in a few lines, for people."""
        config, dataset, split = self.config, self.corpus.dataset, self.corpus.split
        cells = grid(config)
        n_cells, levels = len(cells), ", ".join(dict.fromkeys(cell.level_name for cell in cells))
        return [
            f"{config.algorithm} on {config.model_name}: {config.n_way}-way {config.k_support}-shot, "
            f"{config.k_query} query, {config.k_inner} inner steps, {config.num_meta_steps} meta-steps "
            f"of {config.meta_batch_size} tasks",
            *(f"note: {note}" for note in dataset.notes),
            f"{dataset.name}: {len(dataset.texts)} utterances; classes {len(split.train)} train, "
            f"{len(split.validation)} validation, {len(split.test)} test, disjoint",
            f"{levels} × {len(config.seeds)} seeds = {n_cells} cells, "
            f"{self.n_done} done; {config.num_meta_test_tasks} shared test tasks; on {', '.join(self.devices)}",
        ]


def plan_sweep(config: Config, run: RunDirectory) -> Plan:
    """Checks the input and lists the work that is left. Raises InputError for anything that cannot work."""
    devices = choose_devices(config.devices)
    if config.executor == "ray" and config.devices != ("auto",):
        raise InputError(f"devices = {', '.join(config.devices)}, but executor 'ray' places workers itself: use auto")
    for device in devices if config.executor == "local" else ():
        check_quantization(config, device)
    if config.tensorboard:
        check_event_files()
    _check_name("algorithm", config.algorithm, ALGORITHMS)
    _check_name("head", config.head, HEADS)
    for name in config.baselines or ():
        _check_name("baselines", name, BASELINES)
    _check_algorithm(config)
    corpus = open_corpus(config)
    for level in config.levels:
        check_model(level)
        check_class_sizes(corpus.dataset, level)
        check_class_counts(corpus.dataset, corpus.split, level)
    cells = grid(config)
    n_done = sum(run.cell(cell).is_done for cell in cells)
    baselines = [BaselineJob(name) for name in baseline_names(config) if name not in run.read_baselines()]
    return Plan(config, corpus, devices, (*_cohorts(cells, config, run), *baselines), n_done)


def baseline_names(config: Config) -> list[str]:
    """What a run measures besides its cells, in the order of BASELINES: those that are named, else all that apply.

    InputError for a name that means nothing for this model and algorithm.
    """
    applying = [name for name, baseline in BASELINES.items() if baseline.applies(config.levels[-1])]
    if config.baselines is None:
        return applying
    for name in config.baselines:
        if name not in applying:
            raise InputError(
                f"baselines names {name!r}, which does not apply to algorithm {config.algorithm!r} on "
                f"{config.levels[-1].model_name}: leave it out"
            )
    return [name for name in applying if name in config.baselines]


def _check_name(key: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise InputError(f"{key} = {name!r} is unknown: use {' or '.join(known)}")


def _check_algorithm(config: Config) -> None:
    """Raises InputError for settings that an algorithm or a head cannot work with."""
    algorithm = ALGORITHMS[config.algorithm]
    if algorithm.differentiates_inner_loop:
        # At B = 0 a gradient is exactly zero, where the derivative of g / √g² is infinite.
        wanted = {"inner_optimizer": "sgd", "lora_dropout": 0.0, "load_in_8bit": False, "load_in_4bit": False}
        for key, value in wanted.items():
            if (found := getattr(config, key)) != value:
                raise InputError(
                    f"{key} = {found!r} cannot work with algorithm {config.algorithm!r}, which differentiates the "
                    f"inner loop: set {key} to {value!r}"
                )
    if config.keep_second_moments and (config.inner_optimizer != "adam" or not algorithm.keeps_moments):
        raise InputError(
            f"keep_second_moments = True needs an inner Adam that goes on from task to task, which algorithm "
            f"{config.algorithm!r} with {config.inner_optimizer!r} has not: set it to false"
        )
    if HEADS[config.head].from_words is not None and config.label_words == "symbols" and config.n_way > MOST_SYMBOLS:
        raise InputError(
            f"n_way = {config.n_way} is more than the {MOST_SYMBOLS} letters there are: set label_words to names"
        )


def _cohorts(cells: Sequence[Cell], config: Config, run: RunDirectory) -> list[CohortJob]:
    """What is left of the grid's cohorts, those with most to do first.

    The grid alone decides which cells train together, so a resumed cell meets the neighbours it had. Cells that differ
    in more than N train apart.
    """
    size = config.cells_per_cohort
    alike = [list(of_level) for _, of_level in groupby(cells, key=lambda cell: cell.value)]
    whole = [level[i : i + size] for level in alike for i in range(0, len(level), size)]
    left = [tuple(cell for cell in cohort if not run.cell(cell).is_done) for cohort in whole]
    return [CohortJob(cohort) for cohort in sorted(left, key=len, reverse=True) if cohort]


def run_sweep(plan: Plan, run: RunDirectory, stop: Flag | None = None) -> None:
    """Takes the folder, writes the pools, runs every job that is left, and writes the results table.

    Raises StopRequested once `stop` is set and all work is saved, StorageError where the disk refuses.
    """
    config = plan.config
    run.begin(config, plan.corpus.dataset.fingerprint, software_versions())
    run.forget_workers()
    write_pools(plan, run)
    for cell in grid(config):
        if not run.cell(cell).is_done:
            status = run.cell(cell).read_status()
            run.cell(cell).write_status(
                replace(status, state="pending", num_meta_steps=config.num_meta_steps, reason="")
            )
    make_worker = partial(SweepWorker, config, plan.corpus, plan.devices.count("cpu"))
    stop, give_up = stop or threading.Event(), partial(_give_up, run)
    try:
        if config.executor == "ray":
            map_cluster(partial(partial, make_worker), plan.jobs, run.path, _folders_of, stop, give_up)
        else:
            map_devices(partial(make_worker, run.path), plan.jobs, plan.devices, stop, give_up)
    finally:
        run.write_results_table()


def _folders_of(job: Job) -> list[str]:
    """What a job resumes from, below the run's folder."""
    match job:
        case CohortJob(cells):
            return [cell.name for cell in cells]
        case BaselineJob(name):
            return [f"baselines/{name}"]


def _give_up(run: RunDirectory, job: Job, reason: str) -> None:
    """Records a job that no worker could do."""
    match job:
        case BaselineJob(name):
            run.write_baseline_failure(name, reason)
        case CohortJob(cells):
            for cell in cells:
                folder = run.cell(cell)
                if not folder.is_done:
                    folder.write_status(replace(folder.read_status(), state="failed", reason=reason))


def software_versions() -> dict[str, str]:
    """Versions that a result may depend on; the git commit too where the package runs from a checkout."""
    found = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version(), **found, **_git_commit()}


def _git_commit() -> dict[str, str]:
    here = Path(__file__).parent
    describe = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        asked = subprocess.run(describe, capture_output=True, text=True, timeout=10)
        tracked = subprocess.run(["git", "-C", str(here), "ls-files", "--error-unmatch", __file__], capture_output=True)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    # Installed into some other project's checkout, that project's commit says nothing.
    return {"git commit": asked.stdout.strip()} if asked.returncode == 0 == tracked.returncode else {}


def write_pools(plan: Plan, run: RunDirectory) -> None:
    """The tasks of every pool, with their utterances where a task owns them."""
    config, corpus = plan.config, plan.corpus
    test = evaluation_pool(corpus.dataset, corpus.split.test, config, "test")
    validation = evaluation_pool(corpus.dataset, corpus.split.validation, config, "validation")
    run.write_pool("test", _pool_rows(test, config.num_meta_test_tasks))
    run.write_pool("validation", _pool_rows(validation, config.num_validation_tasks))
    for level in config.levels:
        for seed in config.seeds:
            pool = training_pool(corpus.dataset, corpus.split, level, seed)
            value = None if config.axis == "n_tasks" else getattr(level, config.axis)
            name = f"seed_{seed}" if value is None else Cell(1, seed, config.axis, value).name
            run.write_pool(f"train_{name}", _pool_rows(pool, max(config.n_tasks_list)))


def _pool_rows(pool: TaskPool, n_tasks: int) -> list[dict[str, object]]:
    names = pool.dataset.class_names
    rows: list[dict[str, object]] = []
    for task in range(n_tasks):
        row: dict[str, object] = {"task": task, "classes": [names[c] for c in pool.task_classes(task)]}
        if not pool.resampled:
            episode = pool.episode(task)
            row |= {"support": np.asarray(episode.support).tolist(), "query": np.asarray(episode.query).tolist()}
        rows.append(row)
    return rows


class SweepWorker:
    """Performs jobs on one device; the model and its caches are opened once and kept between jobs."""

    def __init__(self, config: Config, corpus: Corpus, n_cpu_workers: int, root: Path, name: str, device: str) -> None:
        if n_cpu_workers > 1 and device == "cpu":
            share_threads(n_cpu_workers)
        self._run = RunDirectory(root)
        self._config, self._corpus, self._device = config, corpus, device
        self._opened: Experiment | None = None
        experiment = self._experiment_at(config.levels[-1])
        in_flight = experiment.encoder.tasks_in_flight
        worker = Worker(name, device, in_flight, experiment.peak_memory_bytes, experiment.memory_sentence)
        self._run.write_worker(worker)
        self._closed = threading.Event()
        # The thread knows nothing of the model, which goes when this worker does.
        threading.Thread(target=_beat, args=(self._run, worker, self._closed), name="heartbeat", daemon=True).start()

    def __call__(self, job: Job) -> None:
        """What goes wrong with a job is recorded; what only the user can mend is raised."""
        reason = self._attempt(job)
        if reason is None:
            return
        match job:
            case CohortJob(cells) if len(cells) > 1:
                # One of them may be at fault: each goes on alone from its checkpoint.
                for cell in cells:
                    self(CohortJob((cell,)))
            case _:
                _give_up(self._run, job, reason)

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
                experiment = self._experiment_at(self._config.levels[-1])
                self._run.write_baseline(run_baseline(experiment, name, self._run.baseline_folder(name)))
            case CohortJob(cells):
                train_cohort(self._experiment_at(self._level_of(cells[0])), cells, self._run)

    def _level_of(self, cell: Cell) -> Config:
        levels = self._config.levels
        return levels[0] if cell.value is None else next(x for x in levels if getattr(x, cell.axis) == cell.value)

    def _experiment_at(self, level: Config) -> Experiment:
        """The open one, if it has the level's model and LoRA; else that is loaded in place of the one before."""
        if self._opened is not None and (level == self._opened.config or AXES[level.axis].shares_model):
            return replace(self._opened, config=level)
        self._opened = None  # both at once may not fit
        self._opened = open_experiment(level, self._corpus, self._device)
        return self._opened

    def _take_fewer_tasks(self) -> bool:
        """Halves the tasks in flight; False where one at a time is already too much."""
        if self._opened is None:
            return False
        encoder = self._opened.encoder
        used = min(encoder.tasks_in_flight, self._config.tasks_per_step)
        encoder.tasks_in_flight = max(1, used // 2)
        return used > 1


def _beat(run: RunDirectory, worker: Worker, closed: threading.Event) -> None:
    """Says every few seconds that a worker lives, until it is closed or its process ends."""
    while not closed.wait(SECONDS_BETWEEN_HEARTBEATS):
        with contextlib.suppress(OSError, StorageError):  # the step in progress will say so
            run.write_worker(worker)
