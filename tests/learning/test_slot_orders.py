"""With slots drawn anew θ's classifier stays: the mean over all orders of slots, and a start without a favourite."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from reptile_scaling.config import make_config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.evaluation import evaluate, training_loop, validation_episodes
from reptile_scaling.learning.evaluation import test_loop as meta_test_loop
from reptile_scaling.learning.meta_state import MetaState, fresh_state
from reptile_scaling.learning.meta_step import Visit, batch_gradients, meta_step
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import Workbench, open_corpus, open_workbench
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_WEIGHT, Adapters

HEAD = (HEAD_WEIGHT, HEAD_BIAS)
LEARNERS = {
    "reptile": {"algorithm": "reptile"},
    "reptile_as_published": {"algorithm": "reptile", "keep_second_moments": True},
    "fomaml": {"algorithm": "fomaml"},
    "maml": {"algorithm": "maml", "inner_lr": 0.1},
    "anil": {"algorithm": "anil", "inner_lr": 0.1},
}


def bench(toy_settings: dict[str, Any], name: str, **settings: object) -> Workbench:
    config = make_config({**toy_settings, **LEARNERS[name], **settings})
    return open_workbench(config, open_corpus(config), "cpu")


def in_order(episode: Episode, order: tuple[int, ...]) -> Episode:
    rows = list(order)
    return Episode(tuple(episode.classes[w] for w in order), episode.support[rows], episode.query[rows])


def noisy(theta: Adapters, common_row: float) -> Adapters:
    """Away from LoRA's B = 0, the head's rows all `common_row`."""
    generator = torch.Generator().manual_seed(3)
    moved = theta.map(lambda x: x + 0.1 * torch.randn(x.shape, generator=generator))
    return Adapters(moved.tensors | {name: torch.full_like(theta.tensors[name], common_row) for name in HEAD})


def gradients_of_all_orders(workbench: Workbench, name: str, common_row: float) -> Adapters:
    """`[6, …]`: one task's meta-gradient in every order of its three slots."""
    theta = noisy(fresh_state(workbench, 0).theta, common_row)
    episode = validation_episodes(workbench)[0]
    episodes = [in_order(episode, order) for order in permutations(range(3))]
    rngs = [np.random.default_rng(0) for _ in episodes]
    batch = TaskBatch(
        theta.repeated(6), episodes, training_loop(workbench.config), rngs, [0] * 6, workbench.corpus.split.train
    )
    return batch_gradients(workbench.engine, ALGORITHMS[workbench.config.algorithm], batch).gradients


@pytest.mark.parametrize("name", ["reptile", "fomaml", "maml", "anil"])
def test_mean_over_all_orders_moves_every_row_alike_and_that_is_not_seen(name: str, toy_settings) -> None:
    # From equal rows LoRA's first gradient is zero. Adam would make steps of its rounding; with rows of zeros it is
    # exactly zero, which is why the head stays there.
    workbench = bench(toy_settings, name, inner_optimizer="sgd", inner_lr=0.1)
    found, shifted = (gradients_of_all_orders(workbench, name, row) for row in (0.0, 0.05))
    for matrix, own in found.tensors.items():
        if matrix not in HEAD:
            torch.testing.assert_close(own, own[:1].expand_as(own), rtol=1e-3, atol=2e-4)
            torch.testing.assert_close(shifted.tensors[matrix], own, rtol=1e-3, atol=2e-4)
            continue
        rows = own.mean(0)
        assert (own[0] - own[0].mean(0)).abs().max() > 1e-3  # one order alone tells its rows apart
        torch.testing.assert_close(rows, rows[:1].expand_as(rows), rtol=1e-3, atol=2e-4)


def trained(workbench: Workbench, n_steps: int = 6) -> MetaState:
    """θ after some meta-steps of two tasks, always in the same order."""
    state, episodes = fresh_state(workbench, 0), validation_episodes(workbench)
    for step in range(n_steps):
        visits = [Visit(episode, np.random.default_rng(step)) for episode in episodes[:2]]
        moved = meta_step(workbench, [state], [visits])[0].state
        assert moved is not None
        state = moved
    return state


@pytest.mark.parametrize("name", LEARNERS)
def test_start_has_no_favourite_slot(name: str, toy_settings) -> None:
    """A test task read in any order of its slots gives its classes the same predictions."""
    workbench = bench(toy_settings, name, slots="permuted")
    state = trained(workbench)
    assert all(state.theta.tensors[part].abs().max() == 0 for part in HEAD)
    assert state.inner_moments is None or state.inner_moments.squares.tensors[HEAD_WEIGHT].abs().max() > 0
    episode = validation_episodes(workbench)[2]
    orders = list(permutations(range(3)))
    read = evaluate(
        workbench.engine, state.initialisation, tuple(in_order(episode, order) for order in orders),
        meta_test_loop(workbench.config), state.inner_moments,
    )  # fmt: skip
    np.testing.assert_allclose(read.loss, read.loss[0], rtol=1e-4)
    np.testing.assert_allclose(read.zero_step_loss, np.log(3), rtol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_where_tasks_keep_their_slots_the_classifier_moves(name: str, toy_settings) -> None:
    workbench = bench(toy_settings, name, slots="fixed")
    rows = trained(workbench).theta.tensors[HEAD_WEIGHT]
    assert (rows - rows.mean(0)).abs().max() > 1e-3


def test_mean_of_many_draws_is_where_the_head_stays(toy_settings) -> None:
    """What was done before, a drawn order at each visit: its mean over many draws is that no row differs, and one
    draw's rows do, by far more."""
    workbench = bench(toy_settings, "reptile")
    fixed = replace(workbench, config=workbench.config.model_copy(update={"slots": "fixed"}))
    state, episode = fresh_state(workbench, 0), validation_episodes(workbench)[0]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(60):
        order = tuple(int(w) for w in rng.permutation(3))
        moved = meta_step(fixed, [state], [[Visit(in_order(episode, order), rng)]])[0].state
        assert moved is not None
        rows = moved.theta.tensors[HEAD_WEIGHT]
        drawn.append(rows - rows.mean(0))
    spread = torch.stack(drawn)
    # The mean of 60 draws is 1/√60 of one: 0.13, with room for a run of bad luck.
    assert spread.mean(0).norm() < 0.3 * spread.norm(dim=(1, 2)).mean()
