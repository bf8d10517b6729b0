from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from reptile_scaling.config import make_config
from reptile_scaling.data.class_split import split_classes
from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.data.episodes import Episode, TaskPool, coverage, evaluation_pool, training_pool, visiting_order
from reptile_scaling.errors import InputError
from reptile_scaling.runs.grid import Cell

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


def permuted(cell: str = "ntasks_2_seed_0", **options: bool) -> TaskPool:
    return replace(pool(**options), slot_stream=cell)


def by_class(episode: Episode) -> dict[int, tuple[list[int], list[int]]]:
    return {
        c: (s.tolist(), q.tolist()) for c, s, q in zip(episode.classes, episode.support, episode.query, strict=True)
    }


@settings(max_examples=40, deadline=None)
@given(task=st.integers(0, 5000), visit=st.integers(0, 50), resampled=st.booleans(), cell=st.text(max_size=20))
def test_permuted_slots_move_classes_with_their_utterances_and_change_nothing_else(
    task: int, visit: int, resampled: bool, cell: str
) -> None:
    fixed = pool(resampled=resampled).episode(task, visit)
    drawn = permuted(cell, resampled=resampled).episode(task, visit)
    assert by_class(drawn) == by_class(fixed)
    # Any order of five classes is as likely: of six visits in a row not all are in the task's own.
    later = [permuted(cell, resampled=resampled).episode(task, visit + i).classes for i in range(6)]
    assert later[0] == drawn.classes and len(set(later)) > 1


@pytest.mark.parametrize("slot_stream", [None, "cell"])
def test_a_name_in_the_support_set_is_one_more_utterance_of_its_class(slot_stream: str | None) -> None:
    """The rest of a task is as it is without names, and no name is counted as an utterance."""
    bare = replace(pool(), slot_stream=slot_stream)
    named = replace(bare, with_names=True)
    for task in range(20):
        without, found = bare.episode(task, 3), named.episode(task, 3)
        assert found.classes == without.classes
        np.testing.assert_array_equal(found.support[:, :-1], without.support)
        np.testing.assert_array_equal(found.query, without.query)
        words = [DATASET.texts_with_names[place] for place in found.support[:, -1]]
        assert words == [DATASET.class_names[c] for c in found.classes]
    order = np.array([0, 1, 0])
    for reads_query in (False, True):
        assert coverage(named, order, reads_query) == coverage(bare, order, reads_query)


def test_names_come_in_plain_words_and_need_one() -> None:
    named = make_dataset("d", [("a", "card_arrival"), ("b", "TurnOn")])
    assert named.texts_with_names == ("a", "b", "turn on", "card arrival")
    with pytest.raises(InputError, match="class '!!' has no word in its name: give it one"):
        _ = make_dataset("d", [("a", "!!")]).texts_with_names


def test_slots_of_a_visit_are_the_cells_own() -> None:
    visits = [(task, visit) for task in range(4) for visit in range(4)]
    of_cell = {
        cell: [permuted(cell).episode(*visit).classes for visit in visits]
        for cell in ("ntasks_2_seed_0", "ntasks_4_seed_0")
    }
    first, second = of_cell.values()
    assert first != second
    assert [permuted("ntasks_2_seed_0").episode(*visit).classes for visit in visits] == first


def test_every_order_of_the_slots_is_as_likely() -> None:
    of_three = TaskPool(DATASET, tuple(range(12)), 0, "train", n_way=3, k_support=1, k_query=1, slot_stream="cell")
    for task in range(3):
        own = of_three.task_classes(task)
        orders = Counter(tuple(map(own.index, of_three.episode(task, visit).classes)) for visit in range(3000))
        # 3! = 6 orders, 500 expected of each; of three such tests one in 300 draws would have one below .001.
        assert len(orders) == 6 and chisquare(list(orders.values())).pvalue > 0.001


def test_memoriser_of_a_tasks_slots_is_at_chance_when_they_are_permuted() -> None:
    """It knows in which slot each class of the task stood at the visit before, and never adapts."""

    def score(tasks: TaskPool) -> float:
        hits = []
        for task in range(20):
            met = [tasks.episode(task, visit).classes for visit in range(51)]
            hits += [np.equal(before, now).mean() for before, now in zip(met, met[1:], strict=False)]
        return float(np.mean(hits))

    assert score(pool()) == 1.0
    # 1000 visits, each the share of fixed points of a random order of five: mean 1/5, standard error .2/√1000 = .006.
    assert score(permuted()) == pytest.approx(0.2, abs=0.03)


def pools_of(slots: str, n_tasks: int) -> tuple[TaskPool, TaskPool]:
    """The training pool of the cell of N tasks, and the test pool."""
    config = make_config({"class_split": {"train": 0.5, "validation": 0.25, "seed": 3}, "k_query": 5, "slots": slots})
    split = split_classes(DATASET, config)
    training = training_pool(DATASET, split, config, 0, Cell(n_tasks, 0).stream_name)
    return training, evaluation_pool(DATASET, split.test, config, "test")


def test_permuted_cells_share_the_first_50_tasks_of_1000() -> None:
    (small, _), (large, _) = pools_of("permuted", 50), pools_of("permuted", 1000)
    pairs = list(zip(small.episodes(50), large.episodes(1000)[:50], strict=True))
    assert all(by_class(a) == by_class(b) for a, b in pairs)
    assert any(a.classes != b.classes for a, b in pairs)


def test_fixed_slots_are_the_tasks_own_at_every_visit() -> None:
    training, _ = pools_of("fixed", 50)
    assert all(training.episode(3, visit).classes == training.task_classes(3) for visit in range(20))


def test_evaluation_tasks_know_nothing_of_slots() -> None:
    (_, permuted_test), (_, fixed_test) = pools_of("permuted", 2), pools_of("fixed", 50)
    for task in range(20):
        for visit in (0, 7):
            drawn, expected = permuted_test.episode(task, visit), fixed_test.episode(task)
            assert drawn.classes == expected.classes == fixed_test.task_classes(task)
            np.testing.assert_array_equal(drawn.support, expected.support)
            np.testing.assert_array_equal(drawn.query, expected.query)
