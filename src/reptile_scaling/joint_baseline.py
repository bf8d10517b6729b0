"""The honest rival as a baseline: joint training on the tasks of the largest N, on as much data."""

from dataclasses import replace

import numpy as np

from reptile_scaling.baselines import baseline_result
from reptile_scaling.baselines.baseline import Scores
from reptile_scaling.baselines.fine_tuning import fine_tuning_work
from reptile_scaling.config import Config
from reptile_scaling.errors import InputError
from reptile_scaling.learning.cohort import train_cohort
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import BaselineResult

JOINT = "joint"
LABEL = "joint training, same inner loop"


def joint_config(config: Config) -> Config:
    """The run's settings with joint training in place of its algorithm.

    A cell passes its support sets through the model k_inner times a visit; joint training passes support and query
    sets once, so it takes as many more meta-steps as make the utterances equal. Its optimiser is Adam at the inner
    loop's rate, annealed.
    """
    passes = config.k_inner * config.train_shots / (config.train_shots + config.k_query)
    steps = max(1, round(config.num_meta_steps * passes))
    return config.model_copy(
        update={
            "algorithm": JOINT, "num_meta_steps": steps, "eval_interval": max(1, steps // 4),
            "meta_optimizer": "adam", "meta_lr": config.inner_lr, "meta_lr_schedule": "linear",
            "keep_second_moments": False,
        }
    )  # fmt: skip


def joint_work(config: Config) -> Work:
    """In inner steps, of which a visit is as many as it passes support sets."""
    visits = config.num_meta_steps * config.meta_batch_size
    trained = Work(inner_steps=visits * config.k_inner)
    return trained + fine_tuning_work(config.num_meta_test_tasks, config.test_steps)


def run_joint_baseline(workbench: Workbench, run: RunDirectory) -> BaselineResult:
    """Trains one cell, resumable as all are, and reads it on the shared test tasks."""
    config = joint_config(workbench.config)
    cell = Cell(max(config.n_tasks_list), config.seeds[0])
    rival = RunDirectory(run.joint_folder)
    folder = rival.cell(cell)
    if not folder.is_done:
        train_cohort(replace(workbench, config=config), [cell], rival)
    if not folder.is_done:
        raise InputError(f"joint training diverged at meta_lr {config.meta_lr:g}: lower inner_lr")
    tasks = folder.read_test_tasks()
    scores = Scores(
        np.array([task.accuracy for task in tasks]),
        np.array([task.loss for task in tasks]),
        {"meta_steps": config.num_meta_steps, "meta_lr": config.meta_lr, "n_tasks": cell.n_tasks, "seed": cell.seed},
    )
    return baseline_result(JOINT, LABEL, scores, folder.read_result().wall_seconds)
