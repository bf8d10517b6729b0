"""The memory formula against what a real process takes, and the tasks it allows."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from reptile_scaling.bench.memory import with_peak_memory
from reptile_scaling.config import make_config
from reptile_scaling.data.episodes import training_pool
from reptile_scaling.learning.algorithms.maml import SECOND_ORDER_FACTOR, hessian_times
from reptile_scaling.learning.evaluation import training_loop
from reptile_scaling.learning.examples import loss_gradient, support_examples
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.model.devices import free_memory
from reptile_scaling.model.memory import MemoryNeed

pytestmark = pytest.mark.endurance

PLAN = MemoryNeed(
    program=0, weights=1000, cache=500, adapter=10, tokens_per_task=20.0, activations_per_token=3.75, slack=1.25
)


def test_formula_adds_up() -> None:
    assert PLAN.per_task_in_flight == 125
    assert PLAN.peak(8, 4) == 1000 + 500 + 8 * 20 + 4 * 125
    assert PLAN.peak(2, 4) == PLAN.peak(2, 2)


@pytest.mark.parametrize(("budget", "expected"), [(2160.0, 4), (2159.0, 3), (1.0, 1)])
def test_tasks_in_flight_fill_the_budget(budget: float, expected: int) -> None:
    assert PLAN.tasks_within(budget, 8) == expected


def test_free_memory_is_positive_and_at_most_the_machine() -> None:
    assert 0 < free_memory(torch.device("cpu")) < 2**44


def test_larger_cohort_is_cut_to_the_budget_and_gives_the_same(toy_settings) -> None:
    """A larger meta-batch slows down instead of running out of memory."""
    results, in_flight, memory_gb = [], [], None
    for _ in range(2):
        config = make_config({**toy_settings, "memory_gb": memory_gb, "dtype": "float32", "cells_per_cohort": 4})
        corpus = open_corpus(config)
        workbench = open_workbench(config, corpus, "cpu")
        in_flight.append(workbench.engine.tasks_in_flight)
        episodes = training_pool(corpus.dataset, corpus.split, config, 0).episodes(8)
        theta = fresh_initialisation(workbench, 0).repeated(8)
        results.append(adapt_in_groups(workbench.engine, TaskBatch(theta, episodes, training_loop(config))).losses)
        memory_gb = (workbench.memory.peak(config.tasks_per_step, 3)) / 1e9
    assert 1 <= in_flight[1] < 8 <= in_flight[0]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_prediction_is_within_a_quarter_of_what_a_real_model_takes(banking77_folder) -> None:
    """SmolLM2 in fp32 on Banking77: what adaptation needs beyond the weights and the cache."""
    settings = {
        "dataset": "banking77", "data_dir": str(banking77_folder), "class_split": "protaugment-01",
        "lora_layers": "top-6", "dtype": "float32", "k_inner": 2,
    }  # fmt: skip
    config = make_config(settings)
    corpus = open_corpus(config)
    workbench = open_workbench(config, corpus, "cpu")
    engine, theta = workbench.engine, fresh_initialisation(workbench, 0)
    for n_tasks in (2, 4):
        episodes = training_pool(corpus.dataset, corpus.split, config, 0).episodes(n_tasks)
        n_tokens = sum(len(engine.token_ids[u]) for e in episodes for u in e.support.ravel()) / n_tasks
        plan = replace(workbench.memory, program=0, weights=0, cache=0, tokens_per_task=n_tokens)

        def work(episodes=episodes, n_tasks=n_tasks) -> None:
            adapt_in_groups(engine, TaskBatch(theta.repeated(n_tasks), episodes, training_loop(config)))

        work()  # what is allocated once, such as the cache's rows, is there
        _, measured = with_peak_memory(work, torch.device("cpu"))
        assert plan.peak(n_tasks, n_tasks) == pytest.approx(measured, rel=0.25)


def test_hessian_vector_product_takes_no_more_than_its_factor(banking77_folder) -> None:
    settings = {
        "dataset": "banking77", "data_dir": str(banking77_folder), "class_split": "protaugment-01",
        "lora_layers": "top-6", "dtype": "float32", "algorithm": "maml", "inner_optimizer": "sgd",
    }  # fmt: skip
    config = make_config(settings)
    corpus = open_corpus(config)
    workbench = open_workbench(config, corpus, "cpu")
    episodes = training_pool(corpus.dataset, corpus.split, config, 0).episodes(4)
    theta = fresh_initialisation(workbench, 0).repeated(4)
    support = support_examples(workbench.engine, TaskBatch(theta, episodes, training_loop(config)))
    once = live_peak(lambda: loss_gradient(support, theta))
    twice = live_peak(lambda: hessian_times(support, theta, None, theta))
    assert 2 < twice / once < SECOND_ORDER_FACTOR
    # The resident set has the heap in it, as a plan does, and is sampled.
    resident = with_peak_memory(lambda: hessian_times(support, theta, None, theta), torch.device("cpu"))[1]
    assert resident < SECOND_ORDER_FACTOR * workbench.memory.slack * once


def live_peak(run: Callable[[], object]) -> int:
    """Bytes of the tensors that are there at once at most, by torch's own account of each allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    changes = [e.nbytes() for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(changes))
