"""Steps and temperature from left-out support utterances: each once, never seen, and the answers of slow twins."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from reptile_scaling.data.dataset import make_dataset
from reptile_scaling.learning.task_batch import InnerLoop
from reptile_scaling.model.adapters import stack_adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.use import held_out
from reptile_scaling.use.agreement import calibration_error
from reptile_scaling.use.held_out import (
    MOST_FOLDS,
    MOST_UTTERANCES,
    _alike,
    _read_along,
    fit_temperature,
    has_risen,
    leave_out,
    mean_loss,
)
from reptile_scaling.use.labeller import adapt_to_labels, open_labeller
from reptile_scaling.use.support_set import SupportSet
from toy_models import encode, initialisations


@pytest.fixture
def opened(language_model, support_of):
    """A support set of so many shots a class, on an engine of its own."""

    def make(shots: tuple[int, ...]) -> SupportSet:
        support = support_of((0, 2, 3), shots)
        engine = encode(Backbone(language_model, LoraShape(4, 8.0, 2)), support.texts)
        start = stack_adapters(initialisations(engine, 1, 3))
        return SupportSet(engine, start, support.labels, np.concatenate(support.utterances_by_class))

    return make


def test_each_utterance_of_a_class_of_two_or_more_is_left_out_once() -> None:
    slots = np.repeat([0, 1, 2, 3], [1, 2, 5, 25])
    folds = leave_out(slots)
    assert len(folds) == MOST_FOLDS
    assert sorted(np.concatenate(folds).tolist()) == list(range(1, 33)), "the only one of class 0 stays"
    for places in folds:
        kept = np.delete(slots, places)
        assert set(kept) == {0, 1, 2, 3}, "no class is left without an utterance"
    assert [len(places) for places in leave_out(np.repeat([0, 1], 5))] == [2] * 5


def test_nothing_is_left_out_where_every_class_has_one() -> None:
    assert leave_out(np.arange(5)) == []


def test_names_are_never_left_out(opened) -> None:
    support = opened((3, 1, 2))
    n, names = len(support.utterances), np.array([0, 3, 4])
    named = replace(support, utterances=np.setdiff1d(support.utterances, names), names=names)
    np.testing.assert_array_equal(np.sort(named.whole), np.arange(n))
    folds = leave_out(named.slots[named.utterances])
    seen = [fold for group in _alike(named, folds) for fold in group]
    assert seen and all(set(names) <= set(fold.kept) and not set(names) & set(fold.left) for fold in seen)


def test_temperature_is_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    scores, slots = 3 * rng.standard_normal((40, 4)), rng.integers(0, 4, 40)
    grid = np.exp(np.linspace(-4, 4, 4001))
    rows = np.arange(40)
    # The sum of losses and the square of ln T over its own spread of 1/2.
    costs = [-log_softmax(scores / t, axis=1)[rows, slots].sum() + (np.log(t) / 0.5) ** 2 / 2 for t in grid]
    assert fit_temperature(scores, slots) == pytest.approx(grid[int(np.argmin(costs))], rel=5e-3)


def test_planted_temperature_is_recovered() -> None:
    """Labels drawn from softmax(scores / 2): the scores are twice too sure."""
    rng = np.random.default_rng(1)
    scores = 2 * rng.standard_normal((5000, 5))
    slots = (scores / 2 + rng.gumbel(size=scores.shape)).argmax(1)
    assert fit_temperature(scores, slots) == pytest.approx(2, rel=0.05)  # three standard errors of 5000 draws


def test_few_right_answers_do_not_make_it_sure_of_everything() -> None:
    scores = np.eye(4) * 2
    assert 0.3 < fit_temperature(scores, np.arange(4)) < 1


def test_calibration_error_by_hand() -> None:
    # Bin 0.5–0.6 has two of mean .55, one right: |1 − 1.1| = .1; bin 0.9–1 two of mean .95, both right: |2 − 1.9| = .1.
    found = calibration_error(np.array([0.55, 0.55, 0.9, 1.0]), np.array([True, False, True, True]))
    assert found == pytest.approx((0.1 + 0.1) / 4)


def test_chosen_steps_are_those_of_least_held_out_loss_by_adapting_anew(adapter, support_of, tmp_path) -> None:
    """The slow twin: for each number of steps and each fold a labeller of its own, with nothing shared."""
    support = support_of((0, 2, 3), (2, 2, 2))
    labeller, done = adapt_to_labels(adapter, support, tmp_path / "out", learning_rate=0.02)
    assert done.held_out is not None and done.held_out.n == 6
    assert open_labeller(tmp_path / "out").temperature == labeller.temperature == done.held_out.temperature
    losses = {}
    for steps in (1, 2, 3, 5, 10, 20, 50):
        of_folds = []
        for fold in range(2):
            rows = [
                (support.texts[u], support.class_names[c]) for c in range(3) for u in support.utterances_by_class[c]
            ]
            left = rows[fold::2]
            kept = make_dataset("kept", [row for row in rows if row not in left])
            folder = tmp_path / f"{steps}-{fold}"
            alone, _ = adapt_to_labels(adapter, kept, folder, steps=steps, learning_rate=0.02)
            probabilities = alone.predict([text for text, _ in left])
            slots = np.array([alone.labels.index(label) for _, label in left])
            of_folds.append(mean_loss(np.log(probabilities), slots))
        losses[steps] = np.mean(of_folds)
    assert done.steps == min(losses, key=lambda steps: losses[steps])
    assert done.held_out.loss == pytest.approx(losses[done.steps], abs=1e-4)


def test_trained_number_is_taken_where_nothing_can_be_left_out(adapter, support_of, tmp_path) -> None:
    labeller, done = adapt_to_labels(adapter, support_of((0, 2, 3), (1, 1, 1)), tmp_path / "out")
    assert (done.steps, done.held_out, labeller.temperature) == (3, None, 1.0)
    assert done.how == "as evaluated: nothing could be left out to choose them"


def test_given_steps_are_kept_and_calibrated(adapter, support_of, tmp_path) -> None:
    labeller, done = adapt_to_labels(adapter, support_of((0, 2, 3), (3, 3, 3)), tmp_path / "out", steps=4)
    assert done.steps == 4 and done.how == "as given"
    assert done.held_out is not None and labeller.temperature == done.held_out.temperature != 1


def test_large_support_set_takes_as_many_passes_as_evaluated(adapter, toy_rows, tmp_path) -> None:
    rows = [(f"{text} again {i}", label) for text, label in toy_rows[:48] for i in range(5)]
    _, done = adapt_to_labels(adapter, make_dataset("large", rows), tmp_path / "out")
    assert done.n_support == 240 > MOST_UTTERANCES
    assert done.held_out is None and done.steps == 3 * 40, "forty support sets of six utterances, three steps each"


@pytest.mark.parametrize("shots", [(3, 3, 3), (1, 4, 2), (2, 12, 3)])
def test_folds_side_by_side_are_read_as_each_alone(shots: tuple[int, ...], opened) -> None:
    """Groups of folds that keep the same slots, whatever the shots, against one adaptation for each fold and number."""
    support = opened(shots)
    folds = leave_out(support.slots[support.utterances])
    groups = _alike(support, folds)
    assert sorted(np.concatenate([fold.left for group in groups for fold in group]).tolist()) == sorted(
        np.concatenate([support.utterances[places] for places in folds]).tolist()
    )
    loop = InnerLoop(steps=3, learning_rate=0.02, batch_size=4)
    for group in groups:
        reading = _read_along(support, group, loop, [0, 1, 3])
        for steps, scores in reading.items():
            alone = [support.scores(support.adapt(f.kept, replace(loop, steps=steps)).adapters, f.left) for f in group]
            np.testing.assert_allclose(scores, np.concatenate(alone), atol=2e-5)
        assert list(reading) == [0, 1, 3]


@pytest.mark.parametrize(
    ("losses", "read"),
    [
        ({0: 1, 1: 2, 2: 3, 5: 4, 10: 5, 20: 0, 50: 0}, [0, 1, 2, 5, 10]),  # risen for good at ten
        ({0: 1, 1: 2, 2: 3, 5: 0.5, 10: 0.4, 20: 0.3, 50: 0.2}, [0, 1, 2, 5, 10, 20, 50]),  # a rise before the fall
        ({0: 9, 1: 5, 2: 3, 5: 2, 10: 3, 20: 4, 50: 0}, [0, 1, 2, 5, 10, 20]),
        ({0: 9, 1: 5, 2: float("nan"), 5: 2, 10: 3, 20: 4, 50: 0}, [0, 1]),  # diverged
    ],
)
def test_reading_ends_where_the_loss_has_risen_for_good(losses, read, opened, monkeypatch) -> None:
    support = opened((2, 2, 2))
    (group,) = _alike(support, leave_out(support.slots[support.utterances]))
    monkeypatch.setattr(held_out, "mean_loss", lambda scores, slots: float(scores[0, 0]))
    taken = []

    def adapted(self, sets, loop, after_step):
        for step in range(loop.steps + 1):
            taken.append(step)
            if after_step(step, step):
                return

    monkeypatch.setattr(SupportSet, "adapt_side_by_side", adapted)
    monkeypatch.setattr(SupportSet, "scores_side_by_side", lambda self, phi, sets: np.full((2, 3, 3), losses[phi]))
    reading = _read_along(support, group, InnerLoop(steps=7, learning_rate=0.1), sorted(losses))
    assert list(reading) == read and taken[-1] == (2 if len(read) == 2 else read[-1])


def test_no_measured_curve_is_left_before_its_best() -> None:
    """Test losses after 0 to 50 inner steps of every cell in results/; without the ten steps a third would be."""
    best, found, hasty = [], [], []
    for curve in measured_curves():
        steps = sorted(curve)
        losses = [curve[s] for s in steps]
        read = next((n for n in range(1, len(steps)) if has_risen(steps[n - 1], losses[:n])), len(steps))
        early = next((n for n in range(1, len(steps)) if has_risen(99, losses[:n])), len(steps))
        best.append(int(np.argmin(losses)))
        found.append(int(np.argmin(losses[:read])))
        hasty.append(int(np.argmin(losses[:early])))
    assert len(best) >= 30 and found == best
    assert 0.2 < np.mean(np.array(hasty) != best) < 0.5


def measured_curves() -> list[dict[int, float]]:
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for path in sorted((Path(__file__).parents[2] / "results").rglob("adaptation_curve*.csv")):
        cell = ""
        for row in csv.DictReader(path.read_text().splitlines()):
            cell = row["cell"] or cell  # named in its first row alone
            curves.setdefault((str(path), cell), {})[int(row["inner_step"])] = float(row["loss"])
    return list(curves.values())
