"""What is said, and above all what is not said. The full count is printed by scripts/law/verdicts.py."""

import json
import re
from itertools import product

import numpy as np
import pytest

from laws.conftest import SEVEN, law_of, named_world, table_of
from reptile_scaling.laws import LossTable, fit_law, verdict_sentence
from reptile_scaling.laws.fitting import fit_many
from reptile_scaling.laws.forms import FORMS, PLACED
from reptile_scaling.laws.worlds import NOISE_TRENDS, TRUTHS, World, draw_table, draw_world
from reptile_scaling.randomness import stream

SIX = [2.0, 5.0, 10.0, 50.0, 100.0, 200.0]


@pytest.mark.parametrize("name", ["KAPLAN", "WITH_FLOOR", "STRAIGHT", "BENT"])
def test_falling_worlds_are_called_scaling_and_by_their_name(name: str) -> None:
    verdict = law_of(name, noise=0.01).verdict
    truth = named_world(name).truth
    assert verdict.scaling_detected
    assert verdict.form == ("not_a_simple_law" if truth == "broken" else truth)


def test_flat_data_gives_no_scaling() -> None:
    verdict = law_of("FLAT").verdict
    assert (verdict.form, verdict.scaling_detected) == ("flat", False)


def test_rising_data_gives_no_scaling() -> None:
    verdict = law_of("RISING").verdict
    assert (verdict.form, verdict.scaling_detected) == ("rising", False)


def test_fall_and_rise_again_is_no_law() -> None:
    x = np.repeat(SIX, 2)
    y = np.repeat([2.0, 1.3, 1.0, 1.1, 1.5, 2.1], 2) * (1 + 0.02 * stream(1, "u").standard_normal(12))
    verdict = fit_law(LossTable(x, y), n_bootstrap=100).verdict
    assert (verdict.form, verdict.scaling_detected) == ("not_a_simple_law", False)
    assert "broken" in verdict.alternatives


def test_verdicts_are_right_on_drawn_worlds_with_even_falling_and_rising_noise() -> None:
    rng = stream(7, "drawn worlds")
    right = included = scaling_where_none = power_through_a_step = 0
    for truth, noise in product(TRUTHS, NOISE_TRENDS):
        world = draw_world(truth, rng, noise)
        verdict = fit_law(draw_table(world, rng), n_bootstrap=30).verdict
        right += verdict.scaling_detected == world.falls
        scaling_where_none += verdict.scaling_detected and not world.falls
        wanted = {"flat"} if truth == "flat_from_50" else {truth}
        if truth in PLACED:
            wanted = {*PLACED, "not_a_simple_law"}
        included += bool(wanted & {verdict.form, *verdict.alternatives})
        power_through_a_step += truth == "two_plateaus" and verdict.form == "power"
    assert scaling_where_none == 0
    assert power_through_a_step == 0
    assert right >= 26  # of 27
    assert included >= 24  # a smooth break is a floor or a straight line to every second sweep


def test_a_sweep_like_banking77_is_a_step_between_plateaus_and_no_power_law() -> None:
    # 16 % scatter at N = 1 and 0.7 % at N = 1000, and most of the fall between 8 and 50.
    levels = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 50.0, 200.0, 1000.0])
    world = World("two_plateaus", FORMS["two_plateaus"], (0.08, 0.24, 20.0, 4.0), levels, 3, 0.034, 0.45)
    verdicts = [fit_law(draw_table(world, stream(i, "step")), n_bootstrap=20).verdict for i in range(8)]
    assert {v.form for v in verdicts} <= {"not_a_simple_law", "not_resolved"}
    assert all("two_plateaus" in v.alternatives for v in verdicts)


def test_the_largest_n_decides_between_forms_that_the_rest_cannot_tell_apart() -> None:
    # To N = 32 a straight line and a power law agree within the noise; at 10,000 the line is far below.
    x = np.repeat([4.0, 8, 16, 32, 10_000], 3)
    y = 2.0 * x**-0.2 * np.exp(0.05 * stream(3, "forecast").standard_normal(x.size))
    law = fit_law(LossTable(x, y), n_bootstrap=50)
    power, line = law.candidates["power"], law.candidates["log_linear"]
    assert abs(power.rest_information - line.rest_information) < 4
    assert power.holdout_rss is not None and line.holdout_rss is not None
    assert power.holdout_rss < line.holdout_rss
    assert law.verdict.form == "power"


def test_hold_out_sum_of_squares_is_what_the_largest_level_adds_to_a_fit_without_it() -> None:
    law = law_of("KAPLAN")
    levels, power = law.levels, law.candidates["power"]
    rest = fit_many(power.form, levels.x[:-1], levels.mean[None, :-1], levels.weights[None, :-1], residual="log")
    assert power.holdout_rss == pytest.approx(power.fits.rss[0] - rest.rss[0], rel=1e-6)


def test_a_fall_that_noise_may_hide_is_not_called_flat() -> None:
    x = np.repeat(SIX, 2)
    verdict = fit_law(LossTable(x, 1.0 + 0.2 * stream(2, "vague").standard_normal(12)), n_bootstrap=200).verdict
    assert (verdict.form, verdict.scaling_detected) == ("not_resolved", False)
    assert "flat" in verdict.alternatives
    assert any("is not ruled out" in reason or "likelier than a constant" in reason for reason in verdict.reasons)


def test_forms_that_few_noisy_levels_cannot_tell_apart_are_all_named() -> None:
    world = named_world("KAPLAN", n_seeds=2, noise=0.05, levels=np.array([10.0, 20.0, 40.0, 80.0, 160.0]))
    verdict = fit_law(draw_table(world, stream(2, "apart")), n_bootstrap=100).verdict
    assert {"power", "log_linear"} <= {verdict.form, *verdict.alternatives}


def test_one_point_prints_no_r2_and_no_infinity() -> None:
    # A public fit of one point printed R² = -inf.
    law = fit_law(table_of([5], [1.0]))
    found = law.as_json()
    assert found["forms"]["constant"]["r2"] is None
    assert found["verdict"]["form"] == "insufficient_data"
    assert "inf" not in json.dumps(found, allow_nan=False).lower().replace("information", "").replace(
        "insufficient", ""
    )


def test_two_levels_identify_nothing_and_say_what_to_run() -> None:
    law = fit_law(table_of([5, 5, 50, 50], [2.0, 2.1, 1.0, 1.1]))
    assert law.verdict.form == "insufficient_data"
    assert not law.as_json()["forms"]["power"]["identified"]
    assert "run at least 1 more level (5 for a floor)" in law.verdict.reasons[-1]


def test_four_levels_do_not_identify_a_floor() -> None:
    world = named_world("WITH_FLOOR", levels=SEVEN[[0, 2, 4, 6]])
    forms = fit_law(draw_table(world, stream(3, "four")), n_bootstrap=50).as_json()["forms"]
    assert not forms["power_floor"]["identified"]
    assert forms["power_floor"]["ci95"]["beta"] is None
    assert "needs 5" in forms["power_floor"]["reason"]
    assert forms["power"]["identified"]


def test_published_slope_of_one_seed_is_not_called_scaling() -> None:
    # A public attempt: log-log slope +0.049 ± 0.018 with one seed; its loss rises.
    x = np.array([10.0, 20.0, 50.0, 100.0, 200.0, 500.0])
    verdict = fit_law(LossTable(x, x**0.049 * np.exp([0.02, -0.03, 0.01, 0.03, -0.02, 0.0])), n_bootstrap=100).verdict
    assert not verdict.scaling_detected


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([5], [1]),
        ([5, 5, 5], [1, 1.1, 0.9]),
        ([5, 9], [1, 0.8]),
        ([5, 9, 20], [1, 0.9, 0.7]),
        ([5, 9, 20, 40], [1, 0.9, 0.7, 0.66]),
        (SIX, [1.0] * 6),
        (SIX * 2, [1.0] * 12),
        (SIX * 2, [3 * x**-0.3 for x in SIX * 2]),
        (SIX, [3 * x**-0.3 for x in SIX]),
        (SIX, [0.0] * 6),
        (SIX, [-1, -2, -3, -4, -5, -6]),
        (SIX, [1, 0.5, 0.3, 0.2, 0.1, 0]),
        ([*SIX, 2, 2, 200], [2.3, 1.6, 1.3, 1.0, 0.9, 0.88, 2.5, 2.2, 0.95]),
        ([1e6, 1e7, 1e8, 1e9, 1e10, 1e11], [3, 2.5, 2.2, 2.0, 1.9, 1.8]),
        ([100, 101, 102, 103], [1, 0.9, 1, 0.95]),
        (SIX, [5, 1e-3, 4, 1e-3, 5, 1e-3]),
    ],
)
def test_degenerate_tables_give_a_status_and_valid_json(x: list[float], y: list[float]) -> None:
    law = fit_law(table_of(x, y), n_bootstrap=30)
    json.dumps(law.as_json(), allow_nan=False)
    json.dumps(law.predict(1000.0).as_json(), allow_nan=False)
    json.dumps(law.tasks_needed(0.5).as_json(), allow_nan=False)
    sentence = verdict_sentence(law)
    assert law.verdict.reasons
    assert sentence.endswith(".")
    assert "nan" not in sentence.lower().split()
    assert "inf" not in sentence.lower().split()


def test_sentence_gives_exponent_interval_and_what_ten_times_the_tasks_did() -> None:
    law = law_of("KAPLAN", noise=0.01)
    sentence = verdict_sentence(law)
    assert "Loss falls as a power of n_tasks: β = 0.3" in sentence
    assert "95 % interval" in sentence
    assert "tenfold increase, to 200, cut it by 50 %" in sentence  # 1 − 10^-0.3 = 0.499


def test_sentence_says_nothing_of_levels_that_were_not_measured() -> None:
    world = named_world("KAPLAN", noise=0.01, levels=np.array([40.0, 80.0, 120.0, 160.0, 200.0]))
    sentence = verdict_sentence(fit_law(draw_table(world, stream(0, "verdict", "KAPLAN")), n_bootstrap=100))
    assert "going from 40 to 200 cut it by 38 %" in sentence  # 1 − 5^-0.3 = 0.383
    assert "tenfold" not in sentence


def test_r2_is_the_last_word_of_every_form() -> None:
    for form in law_of("KAPLAN").as_json()["forms"].values():
        assert list(form)[-1] == "r2"


def test_log_of_a_fit_is_enough_to_repeat_it_by_hand() -> None:
    found = law_of("KAPLAN").as_json()
    log, form = found["log"], found["forms"]["power"]
    fitted = np.log(form["a"]) - form["beta"] * np.log(log["levels"])
    rss = np.sum(np.array(log["weights"]) * (np.log(log["level_means"]) - fitted) ** 2)
    assert log["rss"]["power"] == pytest.approx(rss, rel=1e-9)
    assert set(log["versions"]) == {"numpy", "scipy", "pandas"}


@pytest.mark.parametrize("transform", ["error_rate", "logit_accuracy"])
def test_accuracy_laws_work_as_loss_laws_do(transform: str) -> None:
    # error rate 0.6·N^-0.3, or odds of an error 2·N^-0.5: both are power laws on their own scale
    x = np.repeat(SEVEN, 3)
    falling = 0.6 * x**-0.3 if transform == "error_rate" else 2.0 * x**-0.5
    falling = falling * np.exp(0.02 * stream(8, "accuracy").standard_normal(x.size))
    accuracy = 1.0 - falling if transform == "error_rate" else 1.0 / (1.0 + falling)
    law = fit_law(LossTable(x, accuracy, y_name="accuracy"), transform=transform, n_bootstrap=200)  # type: ignore[arg-type]
    low, high = law.candidates["power"].interval["beta"]
    assert law.verdict.form == "power"
    assert low < (0.3 if transform == "error_rate" else 0.5) < high
    prediction = law.predict(np.array([200.0]))
    assert prediction.low[0] < prediction.value[0] < prediction.high[0] < 1.0
    assert prediction.value[0] == pytest.approx(accuracy[-3:].mean(), abs=0.02)


def test_a_law_over_classes_never_says_n() -> None:
    falling = draw_table(named_world("KAPLAN"), stream(9, "classes"))
    names = {"x_name": "the number of training classes", "x_symbol": "C"}
    for rows in (slice(None), slice(0, 6), slice(0, 3)):
        group = None if falling.group is None else falling.group[rows]
        law = fit_law(LossTable(falling.x[rows], falling.loss[rows], group, **names), n_bootstrap=20)
        found = law.as_json()
        said = [verdict_sentence(law), *found["verdict"]["reasons"], *found["warnings"], found["log"]["intervals"]]
        said += [str(form["reason"]) + form["formula"] for form in found["forms"].values()]
        said += [*law.predict(1e4).warnings, *law.tasks_needed(0.01).warnings]
        words = re.findall(r"[A-Za-z_]+", " ".join(said))
        assert not {"N", "n_tasks", "N_tasks"} & set(words), said
        assert "C" in words
