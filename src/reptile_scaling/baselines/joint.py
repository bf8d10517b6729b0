"""The honest rival: joint training on the tasks of the largest N, on as much data as a cell passes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reptile_scaling.baselines.baseline import Scores
from reptile_scaling.baselines.fine_tuning import fine_tuning_work
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.errors import InputError
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.cohort import train_cohort
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

ALGORITHM = "joint"


def joint_training(workbench: Workbench, episodes: Sequence[Episode], folder: Path) -> Scores:
    """Trains one cell in the baseline's folder, resumable as all are; its meta-test reads these same episodes."""
    config = joint_config(workbench.config)
    cell = Cell(max(config.n_tasks_list), config.seeds[0])
    rival = RunDirectory(folder)
    trained = rival.cell(cell)
    if not trained.is_done:
        train_cohort(replace(workbench, config=config), [cell], rival)
    if not trained.is_done:
        raise InputError(f"joint training diverged at meta_lr {config.meta_lr:g}: lower inner_lr")
    rows = trained.read_test_tasks()
    assert len(rows) == len(episodes), (len(rows), len(episodes))
    return Scores(
        np.array([row.accuracy for row in rows]),
        np.array([row.loss for row in rows]),
        {"meta_steps": config.num_meta_steps, "meta_lr": config.meta_lr, "n_tasks": cell.n_tasks, "seed": cell.seed},
        seconds=trained.read_result().wall_seconds,
    )


def joint_config(config: Config) -> Config:
    """The run's settings with joint training in place of its algorithm.

    A cell passes its support sets through the model k_inner times a visit; joint training passes support and query
    sets once, so it takes as many more meta-steps as make the utterances equal. Its optimiser is Adam at the inner
    loop's rate, annealed. A cell without an inner loop in training passes both sets once too.
    """
    has_inner_loop = ALGORITHMS[config.algorithm].has_inner_loop
    passes = config.k_inner * config.train_shots / (config.train_shots + config.k_query) if has_inner_loop else 1.0
    steps = max(1, round(config.num_meta_steps * passes))
    return config.model_copy(
        update={
            "algorithm": ALGORITHM, "num_meta_steps": steps, "eval_interval": max(1, steps // 4),
            "meta_optimizer": "adam", "meta_lr": config.inner_lr, "meta_lr_schedule": "linear",
            "keep_second_moments": False, "inner_rates": "fixed",
        }
    )  # fmt: skip


def joint_work(config: Config) -> Work:
    """In inner steps, of which a visit is as many as it passes support sets."""
    visits = config.num_meta_steps * config.meta_batch_size
    trained = Work(inner_steps=visits * config.k_inner)
    return trained + fine_tuning_work(config.num_meta_test_tasks, config.test_steps)


def cells_train_otherwise(config: Config) -> bool:
    """Whether the cells have another algorithm; else joint training is what is measured, not its rival."""
    return config.algorithm != ALGORITHM
