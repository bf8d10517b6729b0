"""What a sweep will cost: time from two timed inner steps on the device itself, memory from the formula.

Work is counted in inner steps of one task and in readings of one query set; everything else is below a few percent.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int

from reptile_scaling.analysis.progress import duration
from reptile_scaling.baselines import BASELINES
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode, training_pool
from reptile_scaling.lab.plan import BaselineJob, CohortJob, Plan
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.budget import budget_work
from reptile_scaling.learning.evaluation import (
    READINGS_PER_TASK,
    evaluate,
    test_episodes,
    training_loop,
    validation_episodes,
    work_of_evaluations,
)
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.meta_state import fresh_state
from reptile_scaling.learning.meta_step import batch_gradients
from reptile_scaling.learning.selection import evaluation_is_due
from reptile_scaling.learning.starts import starting_points
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Corpus, Workbench, fresh_initialisation, open_workbench
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.packing import pack_tokens
from reptile_scaling.runs.directory import RunDirectory

TIMED_FORWARDS = 64


@dataclass(frozen=True)
class Pace:
    """Seconds of each on one device, when tasks share forwards as in the sweep."""

    seconds_per_visit: float
    seconds_per_inner_step: float
    seconds_per_reading: float
    seconds_per_validation_pass: float
    seconds_per_test_pass: float
    seconds_per_utterance: float
    """Filling the prefix cache; 0 without one."""
    seconds_per_whole_forward: float

    def seconds(self, work: Work) -> float:
        return (
            work.visits * self.seconds_per_visit
            + work.inner_steps * self.seconds_per_inner_step
            + work.readings * self.seconds_per_reading
            + work.validation_passes * self.seconds_per_validation_pass
            + work.test_passes * self.seconds_per_test_pass
            + work.whole_forwards * self.seconds_per_whole_forward
        )


@dataclass(frozen=True)
class CostEstimate:
    """Time of what is left of a sweep, on all its devices together, and the memory of one."""

    training: float
    evaluation: float
    baselines: float
    shared_activations: float
    seconds_per_inner_step: float
    memory: str
    peak_memory_bytes: float

    @property
    def total_seconds(self) -> float:
        return self.training + self.evaluation + self.baselines + self.shared_activations

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"time: about {duration(self.total_seconds)} = training {duration(self.training)} + evaluation "
            f"{duration(self.evaluation)} + baselines {duration(self.baselines)} + shared activations "
            f"{duration(self.shared_activations)} ({self.seconds_per_inner_step:.3g} s per task and inner step, "
            "timed now)",
            self.memory,
        ]


def estimate_cost(plan: Plan, run: RunDirectory) -> CostEstimate:
    """Opens the model on the first device and times a little of the work; writes nothing."""
    workbench = open_workbench(plan.config, plan.corpus, plan.devices[0])
    pace = measure_pace(workbench)
    workers = max(1, min(len(plan.devices), len(plan.jobs)))
    used = utterances_at_most(plan.config, plan.corpus)
    return CostEstimate(
        training=pace.seconds(training_work(plan, run)) / workers,
        evaluation=pace.seconds(evaluation_work(plan)) / workers,
        baselines=pace.seconds(baseline_work(plan)) / workers,
        # Every device fills a cache of its own.
        shared_activations=used * pace.seconds_per_utterance if plan.jobs else 0.0,
        seconds_per_inner_step=pace.seconds_per_inner_step,
        memory=workbench.memory_sentence,
        peak_memory_bytes=workbench.peak_memory_bytes,
    )


def training_work(plan: Plan, run: RunDirectory) -> Work:
    """The meta-steps that are left of every cell."""
    config = plan.config
    cells = [cell for job in plan.jobs if isinstance(job, CohortJob) for cell in job.cells]
    steps_done = sum(min(run.cell(cell).read_status().meta_step, config.num_meta_steps) for cell in cells)
    n_steps = len(cells) * config.num_meta_steps - steps_done
    return Work(visits=n_steps * config.meta_batch_size)


def evaluation_work(plan: Plan) -> Work:
    """Of every cell: validations, the meta-test of the selected and the last initialisation, and the curve, whose
    adaptations give the selected one's meta-test besides where the configured rate is among those chosen."""
    config = plan.config
    n_cells = sum(len(job.cells) for job in plan.jobs if isinstance(job, CohortJob))
    n_validations = sum(evaluation_is_due(step, config) for step in range(config.num_meta_steps + 1))
    n_tests = [not config.curve_steps, config.select != "last"].count(True)
    own = work_of_evaluations(config, validations=n_validations, tests=n_tests)
    if config.curve_steps:
        own += budget_work(config) + Work(readings=config.num_meta_test_tasks * READINGS_PER_TASK)
    return sum([own] * n_cells, Work())


def baseline_work(plan: Plan) -> Work:
    """Every baseline that is left."""
    names = [job.name for job in plan.jobs if isinstance(job, BaselineJob)]
    return sum((BASELINES[name].work(plan.config) for name in names), Work())


def utterances_at_most(config: Config, corpus: Corpus) -> int:
    """Distinct utterances a sweep can meet: all of the data set, or what its tasks have places for."""
    per_task = max(config.support_size, config.train_support_size) + config.n_way * config.k_query
    n_tasks = max(config.n_tasks_list) * len(config.seeds) + config.num_meta_test_tasks + config.num_validation_tasks
    n_names = len(corpus.dataset.class_names) if config.names_in_support else 0
    return min(len(corpus.dataset.texts) + n_names, n_tasks * per_task)


def utterances_of(episodes: Sequence[Episode]) -> Int[np.ndarray, "U"]:
    """The distinct utterances of some tasks."""
    return np.unique(np.concatenate([part.ravel() for e in episodes for part in (e.support, e.query)]))


def measure_pace(workbench: Workbench) -> Pace:
    """Times one cohort's meta-step of two inner steps, and one group of test tasks, each after a warm-up."""
    config, engine = workbench.config, workbench.engine
    pool = training_pool(workbench.corpus.dataset, workbench.corpus.split, config, config.seeds[0])
    episodes = pool.episodes(config.tasks_per_step)
    validation, test = validation_episodes(workbench), test_episodes(workbench)
    tested = test[: engine.tasks_in_flight]
    fresh = utterances_of([*episodes, *tested])
    filling = _seconds(lambda: engine.remember(fresh))
    theta = fresh_initialisation(workbench, 0)
    start = starting_points(engine, theta, [episode.classes for episode in episodes], config.head)
    one_step = replace(training_loop(config), steps=1, batch_size=None)
    two_steps = replace(one_step, steps=2)
    rngs = [np.random.default_rng(i) for i in range(len(episodes))]
    adapt_in_groups(engine, TaskBatch(start, episodes, one_step, rngs))
    batch = TaskBatch(start, episodes, two_steps, rngs)
    step = _seconds(lambda: adapt_in_groups(engine, batch)) / (2 * len(episodes))
    evaluate(engine, theta, tested[:1], one_step)
    reading = _seconds(lambda: evaluate(engine, theta, tested, one_step)) / len(tested) - step
    n_support = config.train_support_size
    step *= min(1.0, (config.inner_batch_size or n_support) / n_support)
    reading = max(0.0, reading) / READINGS_PER_TASK
    filling = filling / len(fresh) if engine.has_cache else 0.0
    shared = _seconds(lambda: evaluate(engine, theta, tested, replace(one_step, steps=0))) / len(utterances_of(tested))
    return Pace(
        seconds_per_visit=_visit_seconds(workbench, episodes, step),
        seconds_per_inner_step=step,
        seconds_per_reading=reading,
        seconds_per_validation_pass=len(utterances_of(validation)) * shared,
        seconds_per_test_pass=len(utterances_of(test)) * shared,
        seconds_per_utterance=filling,
        seconds_per_whole_forward=_whole_forward_seconds(engine, fresh),
    )


@torch.no_grad()
def _whole_forward_seconds(engine: Engine, utterances: np.ndarray) -> float:
    """One prompt through all layers of the frozen model: a prefix cache may lie on disk already, and would hide it."""
    some = utterances[:TIMED_FORWARDS]
    placed = engine.backbone.place(pack_tokens(engine.token_ids, [some]))
    engine.backbone.features(placed)
    return _seconds(lambda: engine.backbone.features(placed)) / len(some)


def _visit_seconds(workbench: Workbench, episodes: Sequence[Episode], inner_step: float) -> float:
    """One task's part of a meta-step. Where that is more than its inner steps, it is timed with one step and with two,
    since it grows by the same with every step."""
    config, engine = workbench.config, workbench.engine
    algorithm = ALGORITHMS[config.algorithm]
    if not algorithm.reads_query:
        return config.k_inner * inner_step
    theta = fresh_state(workbench, seed=0).theta
    starts = starting_points(engine, theta, [episode.classes for episode in episodes], config.head)

    def visit(n_steps: int) -> None:
        loop = replace(training_loop(config), steps=n_steps)
        rngs = [np.random.default_rng(i) for i in range(len(episodes))]
        batch = TaskBatch(starts, episodes, loop, rngs, train_classes=workbench.corpus.split.train)
        batch_gradients(engine, algorithm, batch)

    visit(1)
    one, two = _seconds(lambda: visit(1)), _seconds(lambda: visit(2))
    return max(one, one + (config.k_inner - 1) * (two - one)) / len(episodes)


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
