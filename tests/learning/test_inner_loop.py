"""The inner loop against PEFT and stock torch optimisers, one task at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from reptile_scaling.bench.peers import PeerTask, SequentialPeft
from reptile_scaling.config import make_config
from reptile_scaling.data.class_split import split_classes
from reptile_scaling.data.episodes import TaskPool, evaluation_pool
from reptile_scaling.data.readers import load_dataset
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.model.adapters import stack_adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.loading import load_language_model
from reptile_scaling.model.peft_io import lora_config
from toy_models import encode, initialisations, tiny_model

OPTIMIZERS: dict[str, Callable] = {
    "sgd": lambda lr: lambda parameters: torch.optim.SGD(parameters, lr=lr),
    "adam": lambda lr: lambda parameters: torch.optim.Adam(parameters, lr=lr, betas=(0.0, 0.999)),
}


def toy_pool(dataset) -> TaskPool:
    return TaskPool(dataset, tuple(range(12)), 0, "train", n_way=3, k_support=4, k_query=4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("top", [None, 1])
def test_tasks_adapted_together_equal_tasks_adapted_one_by_one(
    optimizer: str, top: int | None, tokenizer, toy_dataset, language_model
) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0, top)), toy_dataset.texts)
    peft = SequentialPeft(tiny_model("llama", len(tokenizer)), lora_config(engine.backbone, "tiny"))
    assert_same_adaptation(engine, peft, toy_pool(toy_dataset), n_tasks=5, optimizer=optimizer, lr=0.01, steps=4)


@pytest.fixture(scope="module")
def both_ways(banking77_folder) -> tuple[Engine, SequentialPeft, TaskPool]:
    """SmolLM2-135M and Banking77, all thirty layers, in the engine and in PEFT."""
    config = make_config(
        {
            "dataset": "banking77", "data_dir": str(banking77_folder), "class_split": "protaugment-01",
            "dtype": "float32", "k_support": 2,
        }
    )  # fmt: skip
    dataset = load_dataset("banking77", str(banking77_folder))
    pool = evaluation_pool(dataset, split_classes(dataset, config).train, config, "test")
    engine = encode(Backbone(load_language_model(config, "cpu"), LoraShape(8, 16.0)), dataset.texts, max_length=64)
    peft = SequentialPeft(load_language_model(config, "cpu").model, lora_config(engine.backbone, "smollm2"))
    return engine, peft, pool


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_real_model_on_real_utterances_equals_peft(optimizer: str, both_ways) -> None:
    """The engine is PEFT, only faster."""
    engine, peft, pool = both_ways
    assert_same_adaptation(engine, peft, pool, n_tasks=2, optimizer=optimizer, lr=1e-4, steps=2)


def assert_same_adaptation(
    engine: Engine, peft: SequentialPeft, pool: TaskPool, *, n_tasks: int, optimizer: str, lr: float, steps: int
) -> None:
    """Losses to 1e-4 relative; the whole adapted parameters as far as the optimiser's own arithmetic allows."""
    episodes = pool.episodes(n_tasks)
    starts = initialisations(engine, n_tasks, pool.n_way)
    together = adapt_in_groups(engine, TaskBatch(stack_adapters(starts), episodes, InnerLoop(steps, lr, optimizer)))
    labels = slots(episodes[0].support, torch.device("cpu")).tolist()
    for t, episode in enumerate(episodes):
        task = PeerTask([engine.token_ids[u] for u in episode.support.ravel()], labels)
        alone, losses = peft.adapt(starts[t], task, steps, OPTIMIZERS[optimizer](lr))
        np.testing.assert_allclose(together.losses[:, t], losses, rtol=1e-4)
        assert alone.keys() == together.adapters.tensors.keys()
        moved = {name: alone[name] - starts[t].tensors[name] for name in alone}
        difference = {name: together.adapters.tensors[name][t] - alone[name] for name in alone}
        # Adam with β1 = 0 divides by |g|, so an entry whose gradient is rounding noise may take either sign:
        # the displacement is compared as one vector.
        size = torch.stack([d.square().sum() for d in moved.values()]).sum().sqrt()
        error = torch.stack([d.square().sum() for d in difference.values()]).sum().sqrt()
        assert error <= (1e-4 if optimizer == "sgd" else 1e-2) * size, (float(error), float(size))


def test_result_does_not_depend_on_how_many_tasks_are_in_flight(toy_dataset, language_model) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0, 2)), toy_dataset.texts)
    episodes = toy_pool(toy_dataset).episodes(5)
    theta = stack_adapters(initialisations(engine, 5, 3))
    results = []
    for in_flight in (1, 2, 5):
        rngs = [np.random.default_rng(t) for t in range(5)]
        engine.tasks_in_flight = in_flight
        loop = InnerLoop(3, 0.01, "sgd", batch_size=5, dropout=0.2)
        results.append(adapt_in_groups(engine, TaskBatch(theta, episodes, loop, rngs)))
    for other in results[1:]:
        torch.testing.assert_close(results[0].losses, other.losses, rtol=1e-4, atol=1e-5)
        for name, tensor in results[0].adapters.tensors.items():
            torch.testing.assert_close(tensor, other.adapters.tensors[name], rtol=1e-3, atol=1e-5)


def test_theta_is_left_as_it_was(toy_dataset, language_model) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0, 1)), toy_dataset.texts)
    theta = initialisations(engine, 1, 3)[0]
    before = theta.map(torch.clone)
    adapt_in_groups(engine, TaskBatch(theta.repeated(2), toy_pool(toy_dataset).episodes(2), InnerLoop(2, 0.01)))
    for name, tensor in theta.tensors.items():
        assert torch.equal(tensor, before.tensors[name])


def test_mini_batches_differ_from_the_full_batch(toy_dataset, language_model) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0, 1)), toy_dataset.texts)
    theta = stack_adapters(initialisations(engine, 1, 3))
    episodes = toy_pool(toy_dataset).episodes(1)
    full = adapt_in_groups(engine, TaskBatch(theta, episodes, InnerLoop(3, 0.01)))
    mini = adapt_in_groups(
        engine, TaskBatch(theta, episodes, InnerLoop(3, 0.01, batch_size=4), [np.random.default_rng(0)])
    )
    assert not torch.allclose(full.losses, mini.losses)
