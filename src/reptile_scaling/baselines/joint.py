"""The honest rival: joint training on the tasks of the largest N, on as much data as a cell passes."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.baselines.baseline import Scores, Tell
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.errors import InputError
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.cohort import train_cohort
from reptile_scaling.learning.evaluation import work_of_evaluations
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.runs.cell_directory import CellDirectory
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

ALGORITHM = "joint"


OUTER_RATES = (0.3, 1.0, 3.0)
"""Multiples of the inner rate that its outer optimiser may take; the first seed's validation tasks choose."""


def joint_training(workbench: Workbench, episodes: Sequence[Episode], folder: Path, tell: Tell) -> Scores:
    """Cells of the largest N in the baseline's folder, resumable as all are, whose meta-test reads these same episodes:
    one for every seed at the outer rate that was best on validation tasks.

    Tells the cells that are done; the status of the one in training tells how far that is.
    """
    seeds = workbench.config.seeds
    n_cells, begun = len(OUTER_RATES) + len(seeds) - 1, count()

    def trained(seed: int, factor: float) -> CellDirectory:
        tell(next(begun), n_cells)
        return _trained(workbench, seed, factor, folder)

    tried = {factor: trained(seeds[0], factor) for factor in OUTER_RATES}
    best = min(tried, key=lambda factor: min(row.validation_loss for row in tried[factor].read_eval_stats()))
    cells = [tried[best], *(trained(seed, best) for seed in seeds[1:])]
    config = joint_config(workbench.config, best)
    settings = {"meta_steps": config.num_meta_steps, "meta_lr": config.meta_lr, "seeds": list(seeds)}
    return replace(
        _scores_of(cells, {**settings, "n_tasks": cells[0].cell.n_tasks}),
        seconds=sum(cell.read_result().wall_seconds for cell in (*tried.values(), *cells[1:])),
    )


def _trained(workbench: Workbench, seed: int, factor: float, folder: Path) -> CellDirectory:
    """The cell of a seed at an outer rate, trained unless it is done."""
    config = joint_config(workbench.config, factor)
    cell = Cell(max(config.n_tasks_list), seed)
    rival = RunDirectory(folder / f"meta_lr_{config.meta_lr:g}")
    if not rival.cell(cell).is_done:
        train_cohort(replace(workbench, config=config), [cell], rival)
    if not rival.cell(cell).is_done:
        raise InputError(f"joint training diverged at meta_lr {config.meta_lr:g}: lower inner_lr")
    return rival.cell(cell)


def _scores_of(cells: Sequence[CellDirectory], settings: dict[str, Any]) -> Scores:
    """Of the cells' meta-tests, mean over them."""
    tables = [cell.read_test_tasks() for cell in cells]
    accuracies = np.array([[task.accuracy for task in table] for table in tables])
    losses = np.array([[task.loss for task in table] for table in tables])
    return Scores(accuracies.mean(0), losses.mean(0), settings, by_initialisation=accuracies.tolist())


def joint_config(config: Config, factor: float = 1.0) -> Config:
    """The run's settings with joint training in place of its algorithm, at a multiple of the inner rate.

    A cell passes its support sets through the model k_inner times a visit; joint training passes support and query
    sets once, so it takes as many more meta-steps as make the utterances equal; a cell without an inner loop in
    training passes both sets once too. Its optimiser is Adam, annealed; where it stops is selected as for the cells.
    """
    has_inner_loop, n_support = ALGORITHMS[config.algorithm].has_inner_loop, config.train_support_size
    passes = config.k_inner * n_support / (n_support + config.n_way * config.k_query) if has_inner_loop else 1.0
    steps = max(1, round(config.num_meta_steps * passes))
    return config.model_copy(
        update={
            "algorithm": ALGORITHM, "num_meta_steps": steps, "eval_interval": max(1, steps // 4),
            "meta_optimizer": "adam", "meta_lr": factor * config.inner_lr, "meta_lr_schedule": "linear",
            "keep_second_moments": False, "curve_steps": (), "inner_rates": "fixed",
        }
    )  # fmt: skip


def joint_work(config: Config) -> Work:
    """In inner steps, of which a visit is as many as it passes support sets: each rate once, the best for all seeds."""
    visits = config.num_meta_steps * config.meta_batch_size
    trained = Work(inner_steps=visits * config.k_inner)
    one = trained + work_of_evaluations(config, tests=1)
    return sum([one] * (len(OUTER_RATES) + len(config.seeds) - 2), one)


def cells_train_otherwise(config: Config) -> bool:
    """Whether the cells have another algorithm; else joint training is what is measured, not its rival."""
    return config.algorithm != ALGORITHM
