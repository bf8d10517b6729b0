"""What a sweep will cost: time from two timed inner steps on the device itself, memory from the formula.

Work is counted in inner steps of one task and in readings of one query set; everything else is below a few percent.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from reptile_scaling.adaptation import adapt, training_loop
from reptile_scaling.baselines import BASELINES
from reptile_scaling.evaluation import READINGS_PER_TASK, curve_work, evaluate, test_episodes
from reptile_scaling.experiment import Experiment, fresh_initialisation, open_experiment
from reptile_scaling.progress import duration
from reptile_scaling.runs import RunDirectory
from reptile_scaling.sweep import BaselineJob, CohortJob, Plan
from reptile_scaling.tasks import training_pool


@dataclass(frozen=True)
class Work:
    """How often a sweep does its two things."""

    inner_steps: int = 0
    """Inner steps of one task."""
    readings: int = 0
    """Forwards of one task's query set."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.inner_steps + other.inner_steps, self.readings + other.readings)


@dataclass(frozen=True)
class Pace:
    """Seconds of each on one device, when tasks share forwards as in the sweep."""

    seconds_per_inner_step: float
    seconds_per_reading: float
    seconds_per_utterance: float
    """Filling the prefix cache; 0 without one."""

    def seconds(self, work: Work) -> float:
        return work.inner_steps * self.seconds_per_inner_step + work.readings * self.seconds_per_reading


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
    experiment = open_experiment(plan.config, plan.corpus, plan.devices[0])
    pace = measure_pace(experiment)
    workers = max(1, min(len(plan.devices), len(plan.jobs)))
    used = _utterances_at_most(plan)
    return CostEstimate(
        training=pace.seconds(training_work(plan, run)) / workers,
        evaluation=pace.seconds(evaluation_work(plan)) / workers,
        baselines=pace.seconds(baseline_work(plan)) / workers,
        # Every device fills a cache of its own.
        shared_activations=used * pace.seconds_per_utterance if plan.jobs else 0.0,
        seconds_per_inner_step=pace.seconds_per_inner_step,
        memory=experiment.memory_sentence,
        peak_memory_bytes=experiment.peak_memory_bytes,
    )


def training_work(plan: Plan, run: RunDirectory) -> Work:
    """The meta-steps that are left of every cell."""
    config = plan.config
    cells = [cell for job in plan.jobs if isinstance(job, CohortJob) for cell in job.cells]
    steps_done = sum(min(run.cell(cell).read_status().meta_step, config.num_meta_steps) for cell in cells)
    n_steps = len(cells) * config.num_meta_steps - steps_done
    return Work(inner_steps=n_steps * config.meta_batch_size * config.k_inner)


def evaluation_work(plan: Plan) -> Work:
    """Validation at every interval and the meta-test, of every cell; adaptation curves of the first seed's."""
    config = plan.config
    n_cells = sum(len(job.cells) for job in plan.jobs if isinstance(job, CohortJob))
    n_validations = -(-config.num_meta_steps // config.eval_interval)
    n_tasks = n_cells * (n_validations * config.num_validation_tasks + config.num_meta_test_tasks)
    cells = [cell for job in plan.jobs if isinstance(job, CohortJob) for cell in job.cells]
    n_curves = sum(cell.seed == config.seeds[0] for cell in cells)
    steps, readings = curve_work(config)
    return Work(n_tasks * config.test_steps + n_curves * steps, n_tasks * READINGS_PER_TASK + n_curves * readings)


def baseline_work(plan: Plan) -> Work:
    """Every baseline that is left."""
    total = Work()
    for job in plan.jobs:
        if isinstance(job, BaselineJob):
            total += Work(*BASELINES[job.name].work(plan.config))
    return total


def _utterances_at_most(plan: Plan) -> int:
    """Distinct utterances the sweep can meet: all of the data set, or what its tasks have places for."""
    config = plan.config
    per_task = config.n_way * (config.k_support + config.k_query)
    n_tasks = max(config.n_tasks_list) * len(config.seeds) + config.num_meta_test_tasks + config.num_validation_tasks
    return min(len(plan.corpus.dataset.texts), n_tasks * per_task)


def measure_pace(experiment: Experiment) -> Pace:
    """Times one cohort's meta-step of two inner steps, and one group of test tasks, each after a warm-up."""
    config, encoder = experiment.config, experiment.encoder
    pool = training_pool(experiment.corpus.dataset, experiment.corpus.split, config, config.seeds[0])
    episodes = pool.episodes(config.tasks_per_step)
    tested = test_episodes(experiment)[: encoder.tasks_in_flight]
    fresh = np.unique(np.concatenate([part.ravel() for e in (*episodes, *tested) for part in (e.support, e.query)]))
    filling = _seconds(lambda: encoder.remember(fresh))
    theta = fresh_initialisation(experiment, 0)
    start, one_step = theta.repeated(len(episodes)), replace(training_loop(config), steps=1, batch_size=None)
    two_steps = replace(one_step, steps=2)
    rngs = [np.random.default_rng(i) for i in range(len(episodes))]
    adapt(encoder, start, episodes, one_step, rngs)
    step = _seconds(lambda: adapt(encoder, start, episodes, two_steps, rngs)) / (2 * len(episodes))
    evaluate(encoder, theta, tested[:1], one_step)
    reading = _seconds(lambda: evaluate(encoder, theta, tested, one_step)) / len(tested) - step
    share = (config.inner_batch_size or config.n_way * config.k_support) / (config.n_way * config.k_support)
    return Pace(
        seconds_per_inner_step=step * min(1.0, share),
        seconds_per_reading=max(0.0, reading) / READINGS_PER_TASK,
        seconds_per_utterance=filling / len(fresh) if encoder.has_cache else 0.0,
    )


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
