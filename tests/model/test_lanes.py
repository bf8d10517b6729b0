"""Tasks side by side on several threads: the same results as on one, and failures that end at once."""

import threading
import time

import pytest
import torch

from reptile_scaling.data.episodes import TaskPool
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.lanes import LaneAbandoned, in_lanes, lane_count, leave_if_abandoned
from reptile_scaling.model.loading import LanguageModel
from reptile_scaling.model.stacked_lora import StackedLora
from toy_models import encode, initialisations, tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_tasks", "n_threads", "lanes"),
    [(1, 2, 1), (2, 2, 2), (3, 2, 1), (4, 2, 2), (19, 2, 2), (4, 8, 4), (6, 16, 2), (16, 6, 2), (5, 1, 1)],
)
def test_lanes_share_threads_evenly_and_stay_busy(n_tasks: int, n_threads: int, lanes: int) -> None:
    assert lane_count(n_tasks, n_threads) == lanes


def test_work_is_shared_in_order(two_threads) -> None:
    together = threading.Barrier(2, timeout=10)

    def work(share: slice) -> slice:
        together.wait()  # passes only where both are at work
        return share

    assert in_lanes(work, range(5, 25), CPU) == [slice(5, 15), slice(15, 25)]


def test_each_lane_has_its_share_of_the_threads(two_threads) -> None:
    assert in_lanes(lambda _: torch.get_num_threads(), range(2), CPU) == [1, 1]
    assert torch.get_num_threads() == 2
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


def test_failure_ends_the_other_lanes(two_threads) -> None:
    left = []

    def work(share: slice) -> None:
        if share.start == 0:
            raise MemoryError("too much")
        began = time.monotonic()
        try:
            while time.monotonic() - began < 30:
                leave_if_abandoned()
        except LaneAbandoned:
            left.append(share)
            raise

    with pytest.raises(MemoryError, match="too much"):
        in_lanes(work, range(2), CPU)
    assert left == [slice(1, 2)]
    leave_if_abandoned()  # outside a lane nothing happens


@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adaptation_in_lanes_equals_adaptation_in_one(
    family: str, top: int | None, tokenizer, toy_dataset, two_threads
) -> None:
    backbone = Backbone(language_model_of(family, tokenizer), LoraShape(4, 8.0, top))
    engine = encode(backbone, toy_dataset.texts)
    theta = initialisations(engine, 1, n_way=3)[0].repeated(4)
    episodes = TaskPool(toy_dataset, tuple(range(12)), 0, "train", n_way=3, k_support=4, k_query=4).episodes(4)
    loop = InnerLoop(3, 0.01, "sgd")
    assert lane_count(4, torch.get_num_threads()) == 2
    side_by_side = adapt_in_groups(engine, TaskBatch(theta, episodes, loop))
    torch.set_num_threads(1)
    together = adapt_in_groups(engine, TaskBatch(theta, episodes, loop))
    torch.testing.assert_close(side_by_side.losses, together.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(side_by_side.adapters.tensors, together.adapters.tensors, rtol=1e-4, atol=1e-6)


def language_model_of(family: str, tokenizer) -> LanguageModel:
    return LanguageModel(tiny_model(family, len(tokenizer)), tokenizer, family)


def test_layers_that_read_the_same_input_are_found(tokenizer) -> None:
    def readers(family: str) -> set[tuple[str, ...]]:
        model = Backbone(language_model_of(family, tokenizer), LoraShape(4, 8.0)).model
        layers = [m for m in model.modules() if isinstance(m, StackedLora)]
        return {tuple(r.site.rsplit(".", 1)[1] for r in m.readers) for m in layers if len(m.readers) > 1}

    # In the last layer queries are asked for answers alone, so they read an input of their own.
    assert readers("llama") == {("q_proj", "k_proj", "v_proj"), ("k_proj", "v_proj"), ("gate_proj", "up_proj")}
    assert readers("gpt2") == set()
