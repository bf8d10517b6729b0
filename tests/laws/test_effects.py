"""Test classes and test tasks as crossed random effects; accuracies on the logit scale; calibration."""

import numpy as np
import pytest

from laws.conftest import SEVEN, named_world, power_interval
from reptile_scaling.errors import InputError
from reptile_scaling.laws import LossTable, calibration_error, compare_arms
from reptile_scaling.laws.effects import membership, task_effects
from reptile_scaling.laws.table import transformed
from reptile_scaling.laws.worlds import draw_table
from reptile_scaling.randomness import stream

N_TASKS, N_CLASSES, N_WAY = 60, 20, 5


def _classes(rng: np.random.Generator) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(f"c{c}" for c in rng.choice(N_CLASSES, N_WAY, replace=False)) for _ in range(N_TASKS))


def test_membership_is_one_nth_of_each_class_of_a_task() -> None:
    np.testing.assert_array_equal(membership((("a", "b"), ("b", "c"))), [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])


@pytest.mark.parametrize(("by_class", "by_task"), [(1.0, 0.2), (0.0, 0.5), (0.5, 0.5)])
def test_variance_of_the_mean_over_other_classes_and_tasks_is_the_planted_one(by_class: float, by_task: float) -> None:
    rng = stream(0, "effects", str(by_class))
    found, planted = [], []
    for _ in range(60):
        classes = _classes(rng)
        z = membership(classes)
        u, e = by_class * rng.standard_normal(z.shape[1]), by_task * rng.standard_normal(N_TASKS)
        found.append(task_effects((z @ u + e)[:, None], classes).variance[0])
        planted.append(by_class**2 * float((z.mean(axis=0) ** 2).sum()) + by_task**2 / N_TASKS)
    # No estimate is below 0, so where classes do nothing their mean is above it, and the median is compared.
    assert np.median(found) == pytest.approx(np.mean(planted), rel=0.2)


def test_class_variance_is_known_with_fewer_degrees_of_freedom_the_more_tasks_scatter() -> None:
    rng = stream(0, "effects", "degrees")
    by_noise: dict[float, float] = {}
    for by_task in (0.02, 0.5, 2.0):
        found = []
        for _ in range(20):
            classes = _classes(rng)
            z = membership(classes)
            values = z @ rng.standard_normal(z.shape[1]) + by_task * rng.standard_normal(N_TASKS)
            found.append(task_effects(values[:, None], classes).class_df)
        by_noise[by_task] = float(np.mean(found))
    assert by_noise[0.02] == pytest.approx(N_CLASSES - 1, abs=0.5)  # seen as they are, but for their mean
    assert 0 < by_noise[2.0] < 0.3 * by_noise[0.5] < 0.3 * by_noise[0.02]
    assert task_effects(rng.standard_normal((N_TASKS, 1)), None).class_df == 0


def test_drawn_shifts_have_the_variance_that_is_reported() -> None:
    rng = stream(1, "effects")
    classes = _classes(rng)
    losses = membership(classes) @ rng.standard_normal((N_CLASSES, 3)) + 0.3 * rng.standard_normal((N_TASKS, 3))
    effects = task_effects(losses, classes)
    np.testing.assert_allclose(effects.drawn_shift(20_000, rng).var(axis=0), effects.variance, rtol=0.06)


def test_without_classes_tasks_are_independent() -> None:
    losses = stream(2, "effects").standard_normal((N_TASKS, 2))
    expected = losses.var(axis=0, ddof=1) / N_TASKS
    np.testing.assert_allclose(task_effects(losses, None).variance, expected, rtol=1e-9)


def _with_tasks(with_classes: bool, shared: float = 0.3) -> LossTable:
    rng = stream(3, "tables")
    table, classes = draw_table(named_world("KAPLAN", noise=0.01), rng), _classes(rng)
    difficulty = 1.0 + shared * membership(classes) @ rng.standard_normal(N_CLASSES)
    tasks = table.loss[:, None] * difficulty / difficulty.mean()
    return LossTable(table.x, table.loss, table.group, tasks, task_classes=classes if with_classes else None)


def test_common_classes_widen_the_amplitude_beyond_what_independent_tasks_say() -> None:
    # Every class is in a quarter of the tasks: 20 classes are what was drawn, not 60 tasks.
    crossed, plain = (power_interval(_with_tasks(c)) for c in (True, False))
    assert np.diff(crossed["a"])[0] > 1.3 * np.diff(plain["a"])[0]
    assert np.diff(crossed["beta"])[0] < 1.3 * np.diff(plain["beta"])[0]


def test_arms_are_compared_over_classes_too() -> None:
    a = _with_tasks(True)
    rng = stream(4, "arms")
    assert a.task_losses is not None and a.task_classes is not None
    gain = membership(a.task_classes) @ (0.2 * rng.standard_normal(N_CLASSES))  # classes gain unequally from B
    tasks = a.task_losses - gain - 0.02
    b = LossTable(a.x, tasks.mean(axis=1), a.group, tasks, task_classes=a.task_classes)
    crossed = compare_arms(a, b, n_bootstrap=100)
    plain = compare_arms(LossTable(a.x, a.loss, a.group, a.task_losses), b, n_bootstrap=100)
    assert np.median((crossed.high - crossed.low) / (plain.high - plain.low)) > 1.3


def test_arms_alike_but_for_which_classes_were_drawn_are_said_to_be_alike_in_19_of_20_sweeps() -> None:
    # A class gains 0.2 nats from one arm or the other, 0 in the mean of all classes: 20 classes tell that mean to
    # ± 0.045, which 60 tasks taken as independent would believe to know to ± 0.017.
    rng, covered = stream(5, "arms"), {"crossed": 0.0, "plain": 0.0}
    for _ in range(40):
        a, classes = draw_table(named_world("KAPLAN", noise=0.01), rng), _classes(rng)
        gain = membership(classes) @ (0.2 * rng.standard_normal(N_CLASSES))
        ours = a.loss[:, None] + 0.02 * rng.standard_normal((1, N_TASKS))
        tasks, seeds = 0.1 * rng.standard_normal((1, N_TASKS)), 0.01 * rng.standard_normal((a.loss.size, 1))
        theirs = ours + gain + tasks + seeds
        for kind, known in (("crossed", classes), ("plain", None)):
            arms = [LossTable(a.x, t.mean(axis=1), a.group, t, task_classes=known) for t in (ours, theirs)]
            found = compare_arms(*arms, n_bootstrap=20)
            covered[kind] += float(np.mean((found.low <= 0) & (found.high >= 0))) / 40
    assert covered["crossed"] >= 0.9
    assert covered["plain"] < 0.75


def test_lists_of_classes_must_be_one_for_each_task() -> None:
    with pytest.raises(InputError, match=r"1 lists of classes for 3 test tasks: give one for each task"):
        LossTable(np.ones(1), np.ones(1), None, np.ones((1, 3)), task_classes=(("a",),))


def test_logit_accuracies_keep_their_test_tasks() -> None:
    x = np.repeat(SEVEN, 3)
    rng = stream(5, "logit")
    accuracy = 1.0 / (1.0 + 2.0 * x[:, None] ** -0.5 * np.exp(0.3 * rng.standard_normal(40)))
    table = transformed(LossTable(x, accuracy.mean(axis=1), None, accuracy), "logit_accuracy")
    assert table.task_losses is not None
    np.testing.assert_allclose(table.task_losses.mean(axis=1), table.loss, rtol=1e-12)


def test_perfect_accuracy_has_a_logit_once_the_number_of_queries_is_known() -> None:
    accuracies = np.array([0.6, 0.8, 0.9, 1.0])
    table = transformed(LossTable(np.array([2.0, 5, 10, 20]), accuracies, n_queries=100), "logit_accuracy")
    assert table.dropped == ()
    # none of 100 wrong: error rate ½ / 101, odds 0.5 / 100.5
    assert table.loss[-1] == pytest.approx(0.5 / 100.5)


def test_calibration_error_of_a_worked_example() -> None:
    # two bins: 0.9 said, 1 of 2 right (gap 0.4 of half the answers); 0.3 said, 0 of 2 right (gap 0.3 of half)
    error = calibration_error(np.array([0.9, 0.9, 0.3, 0.3]), np.array([True, False, False, False]))
    assert error.value == pytest.approx(0.5 * 0.4 + 0.5 * 0.3)
    assert error.low <= error.value <= error.high


def test_calibrated_answers_show_what_chance_shows_and_bold_ones_more() -> None:
    rng = stream(6, "calibration")
    said = rng.uniform(0.2, 1.0, 2000)
    calibrated = calibration_error(said, rng.random(2000) < said)
    bold = calibration_error(said, rng.random(2000) < 0.8 * said)
    assert calibrated.value < 2 * calibrated.of_chance
    assert bold.low > 2 * bold.of_chance
    with pytest.raises(InputError, match=r"confidences, not all from 0 to 1: give the probability"):
        calibration_error(np.array([1.2]), np.array([True]))
