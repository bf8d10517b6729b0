"""One meta-step of several cells: all their tasks in one inner loop, then each cell's own update. Writes nothing."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.algorithms.algorithm import Algorithm, TaskGradients
from reptile_scaling.learning.evaluation import training_loop
from reptile_scaling.learning.inner_rates import split_rates
from reptile_scaling.learning.meta_state import MetaState
from reptile_scaling.learning.outer_optimizers import OUTER_OPTIMIZERS
from reptile_scaling.learning.outer_rates import move_rates
from reptile_scaling.learning.starts import starting_points
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_WEIGHT, Adapters, join_adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS, with_equal_rows


@dataclass(frozen=True)
class Visit:
    """A task at one place of a cell's visiting order, and the stream of its mini-batches."""

    episode: Episode
    rng: np.random.Generator


@dataclass(frozen=True)
class Outcome:
    """What a meta-step did to one cell."""

    state: MetaState | None
    """None where parameters stopped being finite; θ before the step is then the last good one."""
    losses: tuple[float, ...]
    """Training loss before each inner step, nats per utterance, mean over the cell's tasks."""
    meta_lr: float
    seconds: float
    """The cell's share of the step's time."""


def meta_step(
    workbench: Workbench, states: Sequence[MetaState], visits_of_cell: Sequence[Sequence[Visit]]
) -> list[Outcome]:
    """Moves every cell's θ once; each cell visits as many tasks as the others. A cell's outcome is its own."""
    began = time.perf_counter()
    config = workbench.config
    batch = _batch(workbench, states, visits_of_cell)
    found = batch_gradients(workbench.engine, ALGORITHMS[config.algorithm], batch)
    size, outcomes = len(visits_of_cell[0]), []
    for r, state in enumerate(states):
        own = found.rows(slice(r * size, (r + 1) * size))
        meta_lr = scheduled_meta_lr(config, state.meta_step)
        outcomes.append((_moved(state, own, meta_lr, config), tuple(own.losses.mean(1).tolist()), meta_lr))
    seconds = (time.perf_counter() - began) / len(states)
    return [Outcome(*outcome, seconds) for outcome in outcomes]


def scheduled_meta_lr(config: Config, meta_step: int) -> float:
    """ε of a meta-step: constant, or falling linearly from meta_lr at step 0 to 0 after the last (Reptile, §6)."""
    if config.meta_lr_schedule == "constant":
        return config.meta_lr
    return config.meta_lr * (1 - meta_step / config.num_meta_steps)


def batch_gradients(engine: Engine, algorithm: Algorithm, batch: TaskBatch) -> TaskGradients:
    """Of the tasks of all cells, as many at a time as the device holds; grouping does not change them."""
    engine.remember(batch.support_utterances())
    if algorithm.reads_query or split_rates(batch.theta)[1] is not None:
        engine.remember(batch.query_utterances())
    groups = engine.in_groups(lambda tasks: algorithm.task_gradients(engine, batch.rows(tasks)), len(batch))
    return TaskGradients.join(groups)


def _batch(workbench: Workbench, states: Sequence[MetaState], visits_of_cell: Sequence[Sequence[Visit]]) -> TaskBatch:
    config, engine = workbench.config, workbench.engine
    starts = [
        starting_points(engine, state.theta, [visit.episode.classes for visit in visits], config.head)
        for state, visits in zip(states, visits_of_cell, strict=True)
    ]
    kept = [
        state.inner_moments.repeated(len(visits)) if state.inner_moments is not None else None
        for state, visits in zip(states, visits_of_cell, strict=True)
    ]
    return TaskBatch(
        theta=join_adapters(starts),
        episodes=[visit.episode for visits in visits_of_cell for visit in visits],
        loop=training_loop(config),
        rngs=[visit.rng for visits in visits_of_cell for visit in visits],
        owners=[r for r, visits in enumerate(visits_of_cell) for _ in visits],
        train_classes=workbench.corpus.split.train,
        moments=AdamMoments.join_if_any(kept),
    )


def moves_head(config: Config) -> bool:
    """Whether tasks move θ's own head: where they start from it, and keep their slots.

    Over all orders of a task's slots every row of its update has the same mean, and what all rows have in common no
    softmax sees, nor does a gradient. So the mean update leaves the head where it is, and drawing one order at a visit
    would only add the noise of the draw, a random walk: a start that prefers slots (Ye & Chao 2022, arXiv:2106.16245,
    share one row for the same reason).
    """
    return HEADS[config.head].is_meta_learned and config.slots == "fixed"


def _moved(state: MetaState, own: TaskGradients, meta_lr: float, config: Config) -> MetaState | None:
    """θ moved against the mean of its tasks' gradients; None where that is not finite."""
    gradients, rate_gradients = split_rates(own.gradients)
    theta, rates = split_rates(state.theta)
    if not moves_head(config):
        still = {name: torch.zeros_like(gradients.tensors[name]) for name in (HEAD_WEIGHT, HEAD_BIAS)}
        gradients = Adapters(gradients.tensors | still)
    optimizer = OUTER_OPTIMIZERS[config.meta_optimizer]
    theta, outer_moments = optimizer.step(theta, gradients, state.outer_moments, meta_lr, state.meta_step)
    if rates is not None and rate_gradients is not None:
        moved, rate_moments = move_rates(rates, rate_gradients, state.outer_moments, state.meta_step)
        theta, outer_moments = Adapters(theta.tensors | moved), {**outer_moments, **rate_moments}
    if not theta.is_finite():
        return None
    inner_moments = state.inner_moments
    if own.moments is not None:
        inner_moments = own.moments.mean()
        if config.slots == "permuted":
            inner_moments = replace(inner_moments, squares=with_equal_rows(inner_moments.squares, config.n_way))
    return MetaState(theta, outer_moments, inner_moments, state.meta_step + 1)
