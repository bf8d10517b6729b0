"""The grid → cells → cohorts; what is done, what is left."""

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from reptile_scaling.baselines import BASELINES, run_baseline
from reptile_scaling.config import Config
from reptile_scaling.executors import map_devices
from reptile_scaling.experiment import Corpus, open_corpus, open_experiment
from reptile_scaling.model.loading import check_model, check_quantization, choose_devices
from reptile_scaling.runs import Cell, RunDirectory
from reptile_scaling.tasks import TaskPool, evaluation_pool, training_pool
from reptile_scaling.training import train_cohort

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
        n_cells = len(config.n_tasks_list) * len(config.seeds)
        levels = ", ".join(map(str, sorted(config.n_tasks_list)))
        return [
            f"{config.algorithm} on {config.model_name}: {config.n_way}-way {config.k_support}-shot, "
            f"{config.k_query} query, {config.k_inner} inner steps, {config.num_meta_steps} meta-steps "
            f"of {config.meta_batch_size} tasks",
            f"{dataset.name}: {len(dataset.texts)} utterances; classes {len(split.train)} train, "
            f"{len(split.validation)} validation, {len(split.test)} test, disjoint",
            f"N_tasks {levels} × {len(config.seeds)} seeds = {n_cells} cells, "
            f"{self.n_done} done; {config.num_meta_test_tasks} shared test tasks; on {', '.join(self.devices)}",
        ]


def plan_sweep(config: Config, run: RunDirectory) -> Plan:
    """Checks the input and lists the work that is left. Raises InputError for anything that cannot work."""
    devices = choose_devices(config.devices)
    for device in devices:
        check_quantization(config, device)
    check_model(config)
    corpus = open_corpus(config)
    cells = plan_cells(config)
    left = [cell for cell in cells if not run.cell(cell).is_done]
    baselines = [BaselineJob(name) for name in BASELINES if name not in run.read_baselines()]
    return Plan(config, corpus, devices, (*_cohorts(left, config), *baselines), len(cells) - len(left))


def plan_cells(config: Config) -> list[Cell]:
    """The grid, in the order of N_tasks and seed."""
    return sorted(Cell(n, seed) for n in config.n_tasks_list for seed in config.seeds)


def _cohorts(cells: Sequence[Cell], config: Config) -> list[CohortJob]:
    """Cells of all N_tasks mixed: they cost the same, and a curve is seen early."""
    size = config.cells_per_cohort
    return [CohortJob(tuple(cells[i : i + size])) for i in range(0, len(cells), size)]


def run_sweep(plan: Plan, run: RunDirectory) -> None:
    """Takes the folder, writes the pools, runs every job that is left, and writes the results table."""
    config = plan.config
    run.begin(config, plan.corpus.dataset.fingerprint, software_versions())
    run.forget_workers()
    write_pools(plan, run)
    for cell in plan_cells(config):
        if not run.cell(cell).is_done:
            status = run.cell(cell).read_status()
            run.cell(cell).write_status(
                replace(status, state="pending", num_meta_steps=config.num_meta_steps, reason="")
            )
    map_devices(partial(SweepWorker, config, plan.corpus, run.path), plan.jobs, plan.devices)
    run.write_results_table()


def software_versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    found = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version(), **found}


def write_pools(plan: Plan, run: RunDirectory) -> None:
    """The tasks of every pool, with their utterances where a task owns them."""
    config, corpus = plan.config, plan.corpus
    test = evaluation_pool(corpus.dataset, corpus.split.test, config, "test")
    validation = evaluation_pool(corpus.dataset, corpus.split.validation, config, "validation")
    run.write_pool("test", _pool_rows(test, config.num_meta_test_tasks))
    run.write_pool("validation", _pool_rows(validation, config.num_validation_tasks))
    for seed in config.seeds:
        pool = training_pool(corpus.dataset, corpus.split, config, seed)
        run.write_pool(f"train_seed_{seed}", _pool_rows(pool, max(config.n_tasks_list)))


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

    def __init__(self, config: Config, corpus: Corpus, root: Path, device: str) -> None:
        self._run = RunDirectory(root)
        self._experiment = experiment = open_experiment(config, corpus, device)
        self._run.write_worker(
            device,
            {
                "tasks_in_flight": experiment.encoder.tasks_in_flight,
                "peak_memory_bytes": experiment.peak_memory_bytes,
                "memory": experiment.memory_sentence,
            },
        )

    def __call__(self, job: Job) -> None:
        match job:
            case BaselineJob(name):
                self._run.write_baseline(run_baseline(self._experiment, name))
            case CohortJob(cells):
                self._train(cells)

    def _train(self, cells: Sequence[Cell]) -> None:
        """Whatever goes wrong is written into the cells' status, and the sweep goes on with the next cohort."""
        try:
            train_cohort(self._experiment, cells, self._run)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            for cell in cells:
                folder = self._run.cell(cell)
                if folder.read_status().state not in ("done", "failed"):
                    folder.write_status(replace(folder.read_status(), state="failed", reason=reason))
