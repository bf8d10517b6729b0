"""The whole of a plan: takes the folder, writes the pools, has every job performed, writes the results table."""

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from reptile_scaling.data.episodes import TaskPool, evaluation_pool, training_pool
from reptile_scaling.interruption import Flag
from reptile_scaling.lab.executors import EXECUTORS, Assignment
from reptile_scaling.lab.plan import BaselineJob, CohortJob, Job, Plan
from reptile_scaling.lab.provenance import software_versions
from reptile_scaling.lab.worker import SweepWorker, give_up
from reptile_scaling.model.loading import base_digest
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell, grid
from reptile_scaling.runs.records import PoolTask

WORKERS_IMPORT = ("reptile_scaling.lab.worker", "transformers.modeling_utils")


def run_sweep(plan: Plan, run: RunDirectory, stop: Flag | None = None) -> None:
    """Takes the folder, writes the pools, runs every job that is left, and writes the results table.

    Raises StopRequested once `stop` is set and all work is saved, StorageError where the disk refuses.
    """
    config = plan.config
    for cell in grid(config):
        run.cell(cell).check_nobody_computes()
    run.begin(config, plan.corpus.dataset.fingerprint, software_versions(), base_digest(config))
    run.forget_workers()
    run.expect_baselines([job.name for job in plan.jobs if isinstance(job, BaselineJob)])
    write_pools(plan, run)
    for cell in grid(config):
        if not run.cell(cell).is_done:
            status = run.cell(cell).read_status()
            run.cell(cell).write_status(
                replace(status, state="pending", num_meta_steps=config.num_meta_steps, reason="")
            )
    assignment = Assignment(
        jobs=plan.jobs,
        make_worker=partial(SweepWorker, config, plan.corpus, plan.devices.count("cpu"), run.title),
        devices=plan.devices,
        folder=run.path,
        folders_of=partial(_folders_of, run),
        give_up=partial(give_up, run),
        stop=stop or threading.Event(),
        imports=WORKERS_IMPORT,
        options=config.slurm,
    )
    try:
        EXECUTORS[config.executor].perform(assignment)
    finally:
        run.write_results_table()


def _folders_of(run: RunDirectory, job: Job) -> list[Path]:
    """What a job resumes from."""
    match job:
        case CohortJob(cells):
            return [run.cell(cell).path for cell in cells]
        case BaselineJob(name):
            return [run.baseline_folder(name)]


def write_pools(plan: Plan, run: RunDirectory) -> None:
    """The tasks of every pool, with their utterances where a task owns them."""
    config, corpus = plan.config, plan.corpus
    run.unseal_pools()
    test = evaluation_pool(corpus.dataset, corpus.split.test, config, "test")
    validation = evaluation_pool(corpus.dataset, corpus.split.validation, config, "validation")
    run.write_pool("test", _pool_tasks(test, config.num_meta_test_tasks))
    run.write_pool("validation", _pool_tasks(validation, config.num_validation_tasks))
    for level in config.level_configs:
        for seed in config.seeds:
            pool = training_pool(corpus.dataset, corpus.split, level, seed)
            value = None if config.axis == "n_tasks" else getattr(level, config.axis)
            name = f"seed_{seed}" if value is None else Cell(1, seed, config.axis, value).name
            run.write_pool(f"train_{name}", _pool_tasks(pool, max(config.n_tasks_list)))
    run.seal_pools()


def _pool_tasks(pool: TaskPool, n_tasks: int) -> list[PoolTask]:
    names = pool.dataset.class_names
    tasks = [PoolTask(task, [names[c] for c in pool.task_classes(task)]) for task in range(n_tasks)]
    if pool.resampled:
        return tasks
    owned = [pool.episode(task.task) for task in tasks]
    return [
        replace(task, support=np.asarray(episode.support).tolist(), query=np.asarray(episode.query).tolist())
        for task, episode in zip(tasks, owned, strict=True)
    ]
