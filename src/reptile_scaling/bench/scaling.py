"""How the cost of an inner step grows with the tasks that share it, of one cell and of a cohort."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reptile_scaling.bench.bench import open_peer, run_peer
from reptile_scaling.bench.floor import floor_seconds, inner_step_products
from reptile_scaling.bench.peers import SequentialPeft
from reptile_scaling.bench.timing import interleaved_seconds
from reptile_scaling.config import make_config
from reptile_scaling.data.episodes import training_pool
from reptile_scaling.learning.evaluation import training_loop
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import Workbench, fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.model.devices import choose_dtype

TASKS_PER_STEP = (1, 2, 4, 8, 16, 32)
CELLS_PER_COHORT = (1, 2, 4, 8)
INNER_STEPS = 2


def bench_scaling(settings: dict[str, Any], *, repeats: int) -> dict[str, Any]:
    """Rows over tasks per step T and over cells per cohort R (4 tasks each), LoRA on all layers.

    A row has `precision, cells, tasks_per_step, seconds_per_task_step, fraction_of_floor`; beside them the same step
    by sequential PEFT in fp32, which is what T = 1 must not be slower than.
    """
    native = str(choose_dtype("auto", "cpu")).removeprefix("torch.")
    config = make_config({**settings, "lora_layers": "all", "dtype": "float32", "k_inner": INNER_STEPS})
    corpus = open_corpus(config)
    workbench = open_workbench(config, corpus, "cpu")
    peer = partial(_peer_step, workbench, open_peer(workbench))
    one_cell = [(1, tasks) for tasks in TASKS_PER_STEP]
    cohorts = [(cells, cells * config.meta_batch_size) for cells in CELLS_PER_COHORT]
    rows, peer_seconds = _rows(workbench, one_cell, repeats, peer)
    if native != "float32":
        workbench = open_workbench(config.model_copy(update={"dtype": native}), corpus, "cpu")
        rows += _rows(workbench, one_cell, repeats)[0]
    return {
        "sequential_peft_seconds_per_task_step": peer_seconds,
        "tasks": rows,
        "cohorts": _rows(workbench, cohorts, repeats)[0],
    }


def _peer_step(workbench: Workbench, peer: SequentialPeft) -> None:
    """What the engine does at T = 1."""
    pool = training_pool(workbench.corpus.dataset, workbench.corpus.split, workbench.config, 0)
    theta = fresh_initialisation(workbench, 0)
    run_peer(peer, theta, pool.episodes(1), workbench.engine.token_ids, workbench.config, None)


def _rows(
    workbench: Workbench, settings: Sequence[tuple[int, int]], repeats: int, peer: Callable[[], None] | None = None
) -> tuple[list[dict[str, Any]], float]:
    """One row for each (cells, tasks of all cells); and the peer's seconds, taken in turns with them."""
    engine, theta, config = workbench.engine, fresh_initialisation(workbench, 0), workbench.config
    engine.tasks_in_flight = max(tasks for _, tasks in settings)
    pool = training_pool(workbench.corpus.dataset, workbench.corpus.split, config, 0)
    programs: dict[tuple[int, int], Callable[[], object]] = {(0, 0): peer} if peer else {}
    floors = {}
    for cells, tasks in settings:
        episodes = pool.episodes(tasks)
        owners = [task * cells // tasks for task in range(tasks)]
        programs[cells, tasks] = partial(
            adapt_in_groups,
            engine,
            TaskBatch(theta.repeated(tasks), episodes, training_loop(config), owners=owners),
        )
        packed = engine.prepare([e.support for e in episodes]).packed
        products = inner_step_products(engine.backbone, len(packed.token_ids), len(packed.lengths))
        floors[cells, tasks], _ = floor_seconds(engine.backbone, products)
    interleaved_seconds(programs, 1)  # warm-up
    seconds = interleaved_seconds(programs, repeats)
    rows = [
        {
            "precision": str(engine.backbone.dtype).removeprefix("torch."),
            "cells": cells,
            "tasks_per_step": tasks,
            "seconds_per_task_step": seconds[cells, tasks] / INNER_STEPS / tasks,
            "fraction_of_floor": floors[cells, tasks] * INNER_STEPS / seconds[cells, tasks],
        }
        for cells, tasks in settings
    ]
    return rows, seconds.get((0, 0), 0.0) / INNER_STEPS
