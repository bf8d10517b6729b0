import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reptile_scaling.config import make_config
from reptile_scaling.data.class_split import split_classes
from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.data.episodes import TaskPool, coverage, evaluation_pool, training_pool, visiting_order

DATASET = make_dataset("d", [(f"text {c} {i}", f"class{c:02d}") for c in range(20) for i in range(20)])


def pool(seed: int = 0, resampled: bool = False, dataset: IntentDataset = DATASET) -> TaskPool:
    return TaskPool(dataset, tuple(range(12)), seed, "train", n_way=5, k_support=3, k_query=4, resampled=resampled)


def test_first_50_tasks_are_the_first_50_of_1000() -> None:
    small, large = pool().episodes(50), pool().episodes(1000)[:50]
    for a, b in zip(small, large, strict=True):
        assert a.classes == b.classes
        np.testing.assert_array_equal(a.support, b.support)


def test_pools_of_two_seeds_differ() -> None:
    assert [e.classes for e in pool(0).episodes(5)] != [e.classes for e in pool(1).episodes(5)]


def test_slot_says_nothing_about_the_class() -> None:
    """A memoriser that knows every training class's usual slot and never adapts scores at chance, 1/5.

    Sorted class tuples (the public attempt) let it score 0.5.
    """
    episodes = pool().episodes(3000)
    counts = np.zeros((20, 5))
    for episode in episodes[:2000]:
        counts[list(episode.classes), range(5)] += 1
    usual_slot = counts.argmax(1)
    hits = [usual_slot[c] == slot for e in episodes[2000:] for slot, c in enumerate(e.classes)]
    # 5000 draws of a 1/5 chance: standard error .006.
    assert np.mean(hits) == pytest.approx(0.2, abs=0.03)
    assert [c for e in episodes for c in e.classes] != [c for e in episodes for c in sorted(e.classes)]


@settings(max_examples=40, deadline=None)
@given(task=st.integers(0, 5000), visit=st.integers(0, 50), resampled=st.booleans())
def test_episode_holds_distinct_utterances_of_its_own_classes(task: int, visit: int, resampled: bool) -> None:
    episode = pool(resampled=resampled).episode(task, visit)
    assert len(set(episode.classes)) == 5
    drawn = np.concatenate([episode.support, episode.query], axis=1)
    assert len(np.unique(drawn)) == drawn.size
    for row, c in zip(drawn, episode.classes, strict=True):
        assert set(DATASET.labels[row]) == {c}


def test_fixed_task_owns_its_utterances_and_resampled_does_not() -> None:
    fixed, resampled = pool(), pool(resampled=True)
    np.testing.assert_array_equal(fixed.episode(3, 0).support, fixed.episode(3, 9).support)
    assert (resampled.episode(3, 0).support != resampled.episode(3, 9).support).any()
    assert resampled.episode(3, 0).classes == resampled.episode(3, 9).classes


def test_every_task_is_visited_once_per_round() -> None:
    order = visiting_order(7, 21, seed=0, cell="c")
    for start in (0, 7, 14):
        assert sorted(order[start : start + 7]) == list(range(7))


def test_coverage_counts_revisits_once() -> None:
    order = np.array([0, 1, 0, 1, 0, 1])
    # Two fixed tasks of 5 × 3 support utterances hold at most 30; resampling meets new ones.
    assert coverage(pool(), order).distinct_utterances <= 30
    assert coverage(pool(resampled=True), order).distinct_utterances > coverage(pool(), order).distinct_utterances


def test_training_and_test_tasks_share_no_class() -> None:
    config = make_config({"class_split": {"train": 0.5, "validation": 0.25, "seed": 3}, "k_query": 5})
    split = split_classes(DATASET, config)
    train = {c for e in training_pool(DATASET, split, config, 0).episodes(100) for c in e.classes}
    test = {c for e in evaluation_pool(DATASET, split.test, config, "test").episodes(100) for c in e.classes}
    assert not train & test
