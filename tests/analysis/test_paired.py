"""Paired gains know that tasks share classes and that initialisations scatter."""

import numpy as np
import pytest

from reptile_scaling.analysis.paired import paired_gain

N_CLASSES, N_WAY, N_TASKS = 20, 5, 150


def drawn_tasks(rng: np.random.Generator) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(f"class_{c}" for c in rng.permutation(N_CLASSES)[:N_WAY]) for _ in range(N_TASKS))


def simulated(rng: np.random.Generator, class_sd: float, seed_sd: float, n_seeds: int):
    """Accuracies of two starts whose true difference is 0, with class effects of their own, and the tasks' classes."""
    classes = drawn_tasks(rng)
    effects = dict(
        zip(sorted({c for t in classes for c in t}), class_sd * rng.standard_normal(N_CLASSES), strict=False)
    )
    shared = np.array([np.mean([effects[c] for c in names]) for names in classes])
    ours = 0.8 + shared + 0.02 * rng.standard_normal((n_seeds, N_TASKS)) + seed_sd * rng.standard_normal((n_seeds, 1))
    return ours, np.full((1, N_TASKS), 0.8), classes


def test_difference_is_the_mean_over_tasks_and_initialisations() -> None:
    # Means of ours: 0.9 and 0.7, of theirs 0.5: 30 points beyond.
    gain = paired_gain(np.array([[0.9, 0.9], [0.7, 0.7]]), np.array([[0.5, 0.5]]), (("a", "b"), ("c", "d")))
    assert gain.points == pytest.approx(30.0)


def test_class_effects_widen_the_interval() -> None:
    ours, theirs, classes = simulated(np.random.default_rng(0), class_sd=0.1, seed_sd=0.0, n_seeds=1)
    with_classes, without = (paired_gain(ours, theirs, known).half_width for known in (classes, None))
    assert with_classes > 1.5 * without


def test_seeds_that_scatter_widen_the_interval() -> None:
    ours, theirs, classes = simulated(np.random.default_rng(1), class_sd=0.0, seed_sd=0.05, n_seeds=3)
    assert paired_gain(ours, theirs, classes).half_width > 2 * paired_gain(ours[:1], theirs, classes).half_width


def test_the_same_accuracy_on_every_task_is_level_whatever_a_mean_over_seeds_rounds_to() -> None:
    fifth = np.full((3, 20), 0.20000000298023224)
    gain = paired_gain(fifth, fifth[:1] - 3e-17, None)
    assert gain.verb == "is level with"
    assert paired_gain(fifth + 3e-17, fifth[:1], None).verb == "is level with"


def test_interval_that_holds_zero_is_level() -> None:
    rng = np.random.default_rng(2)
    ours, theirs, classes = simulated(rng, class_sd=0.05, seed_sd=0.0, n_seeds=2)
    assert paired_gain(ours - ours.mean() + theirs.mean(), theirs, classes).verb == "is level with"
    assert paired_gain(ours + 0.2, theirs, classes).verb == "beats"
    assert paired_gain(ours - 0.2, theirs, classes).verb == "falls short of"


@pytest.mark.parametrize(("class_sd", "seed_sd", "n_seeds"), [(0.1, 0.0, 1), (0.05, 0.02, 3)])
def test_intervals_cover_what_was_planted(class_sd: float, seed_sd: float, n_seeds: int) -> None:
    """Of 60 worlds without a difference; `scripts/experiment/class_intervals.py` counts more of them."""
    covered = 0
    for world in range(60):
        gain = paired_gain(*simulated(np.random.default_rng(world), class_sd, seed_sd, n_seeds))
        covered += abs(gain.points) <= gain.half_width
    assert covered >= 52  # 0.92 · 60 = 55 less one standard deviation and a half
