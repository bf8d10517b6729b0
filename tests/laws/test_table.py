"""What goes in: every error names the value and a cure that works; nothing is dropped in silence."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from laws.conftest import SEVEN, named_world, table_of
from reptile_scaling.errors import InputError
from reptile_scaling.laws import LossTable, fit_law, table_from_frame
from reptile_scaling.laws.levels import gather_levels
from reptile_scaling.laws.noise import fit_noise_law
from reptile_scaling.laws.table import from_scale, to_scale
from reptile_scaling.laws.worlds import draw_table
from reptile_scaling.randomness import stream

FRAME = pd.DataFrame({"n": [2, 5, 10], "loss": [2.0, 1.5, 1.2], "seed": [0, 0, 0]})


def test_missing_column_names_the_columns_there_are() -> None:
    with pytest.raises(InputError, match=r"column 'tasks' is not in the table: choose one of n, loss, seed\."):
        table_from_frame(FRAME, "tasks", "loss")
    assert table_from_frame(FRAME, "n", "loss").loss.size == 3  # the cure


def test_text_in_a_number_column_is_named() -> None:
    with pytest.raises(InputError, match=r"loss = 'high' is not a number: correct that row"):
        table_from_frame(FRAME.assign(loss=["2.0", "high", "1.2"]), "n", "loss")


def test_zero_tasks_have_no_logarithm_and_dropping_the_row_cures() -> None:
    frame = pd.concat([FRAME, pd.DataFrame({"n": [0], "loss": [3.0], "seed": [0]})])
    with pytest.raises(InputError, match=r"n = 0 has no logarithm: give only values above 0 \(drop that row\)"):
        table_from_frame(frame, "n", "loss")
    assert table_from_frame(frame[frame.n > 0], "n", "loss").loss.size == 3


def test_rows_of_diverged_runs_are_dropped_and_named() -> None:
    table = table_from_frame(FRAME.assign(loss=[2.0, np.nan, np.inf]), "n", "loss", "seed")
    assert table.loss.tolist() == [2.0]
    assert table.dropped == ("row 1: n = 5.0, loss = nan is not finite", "row 2: n = 10.0, loss = inf is not finite")
    assert fit_law(table).as_json()["log"]["dropped"] == list(table.dropped)


def test_a_table_of_diverged_runs_only_says_so() -> None:
    with pytest.raises(InputError, match=r"0 usable rows .*loss = nan.*: give at least one row with a finite loss"):
        table_from_frame(FRAME.assign(loss=np.nan), "n", "loss")


def test_accuracy_outside_zero_to_one_is_refused_with_the_cure() -> None:
    with pytest.raises(InputError, match=r"loss = 71 is not an accuracy between 0 and 1: use transform 'loss'"):
        fit_law(table_of([2, 5, 10], [55.0, 60.0, 71.0][::-1]), transform="error_rate")


def test_perfect_accuracy_has_no_logit_and_is_named() -> None:
    law = fit_law(table_of([2, 5, 10, 20], [0.6, 0.8, 0.9, 1.0]), transform="logit_accuracy")
    assert law.table.dropped == ("row 3: an accuracy of 1 has no logit",)
    assert law.as_json()["n_points"] == 3


@pytest.mark.parametrize("transform", ["loss", "error_rate", "logit_accuracy"])
def test_scales_are_inverse_to_each_other(transform: str) -> None:
    accuracy = np.array([0.2, 0.5, 0.99])
    np.testing.assert_allclose(from_scale(to_scale(accuracy, transform), transform), accuracy, rtol=1e-12)  # type: ignore[arg-type]


def test_pooled_noise_is_the_planted_noise() -> None:
    levels = gather_levels(draw_table(named_world("KAPLAN", n_seeds=50), stream(0, "noise")))
    # 7 · 49 = 343 degrees of freedom: s is within 4 % of σ in two thirds of draws, three times that in all but few.
    assert np.sqrt(levels.pooled_variance) == pytest.approx(0.03, rel=0.12)
    assert levels.noise == "relative"


def test_noise_of_equal_size_everywhere_is_seen_as_absolute() -> None:
    x = np.repeat(SEVEN, 5)
    y = 3.0 * x**-0.5 + 0.02 * stream(0, "absolute").standard_normal(x.size)
    assert gather_levels(LossTable(x, y)).noise == "absolute"


@pytest.mark.parametrize("exponent", [-0.4, 0.0, 0.4])
def test_planted_exponent_of_the_noise_is_recovered(exponent: float) -> None:
    law = gather_levels(draw_table(named_world("FLAT", n_seeds=50, noise_exponent=exponent), stream(0, "g"))).noise_law
    # 7 levels with 49 df each: standard error 1 / √(2 · 49 · Σ (log x − mean)²) = 0.026; three times that is allowed.
    assert law.estimate == pytest.approx(exponent, abs=0.08)
    assert law.interval[0] < exponent < law.interval[1]
    assert exponent == 0.0 or law.exponent == law.estimate


def test_scatter_that_shrinks_with_n_is_warned_of_and_weighs_levels() -> None:
    law = fit_law(draw_table(named_world("KAPLAN", noise_exponent=0.5), stream(0, "uneven")), n_bootstrap=20)
    (warning,) = [w for w in law.warnings if "scatter" in w]
    assert warning.startswith("the seeds scatter less at large N: 0.")
    assert (np.diff(law.levels.weights) > 0).all()
    assert law.as_json()["log"]["noise_exponent"] == law.levels.noise_law.exponent > 0.2


def test_even_scatter_is_taken_for_uneven_as_often_as_the_test_allows() -> None:
    p_values = np.array(
        [gather_levels(draw_table(named_world("KAPLAN"), stream(i, "even"))).noise_law.p_value for i in range(300)]
    )
    assert (p_values < 0.01).sum() <= 9  # 3 expected; 10 or more are drawn once in a thousand
    assert 25 <= (p_values < 0.157).sum() <= 70  # 47 expected, standard deviation 6


def test_scatter_needs_seeds_at_two_levels() -> None:
    for table in (table_of([1, 2, 4], [3.0, 2.0, 1.0]), table_of([1, 1, 2, 4], [3.0, 3.1, 2.0, 1.0])):
        law = gather_levels(table).noise_law
        assert (law.exponent, np.isnan(law.p_value)) == (0.0, True)
        assert not any("scatter" in w for w in fit_law(table).warnings)


def test_restricted_likelihood_of_the_noise_equals_one_written_out_by_hand() -> None:
    from scipy.stats import norm

    # Three levels, two seeds each: the difference of a pair is N(0, 2σ²), and nothing else says anything of σ.
    x, gaps = np.array([1.0, 10.0, 100.0]), np.array([0.4, 0.1, 0.05])
    law = fit_noise_law(x, gaps**2 / 2, np.ones(3))

    def deviance(g: float) -> float:
        s = np.geomspace(0.01, 1.0, 4000)[:, None]
        return float((-2 * norm.logpdf(gaps, scale=np.sqrt(2) * s * (x / 10.0) ** -g)).sum(axis=1).min())

    by_hand = {g: deviance(g) for g in np.linspace(-1.5, 1.5, 121)}
    assert law.estimate == pytest.approx(min(by_hand, key=lambda g: by_hand[g]), abs=0.03)
    assert law.p_value == pytest.approx(chi2.sf(by_hand[0.0] - min(by_hand.values()), 1), rel=0.01)


def test_what_a_seed_does_at_every_n_is_kept_apart_from_noise() -> None:
    rng = stream(1, "shared")
    x, effect = np.repeat(SEVEN, 3), np.tile([0.9, 1.0, 1.1], SEVEN.size)
    y = 3.0 * x**-0.3 * effect * np.exp(0.01 * rng.standard_normal(x.size))
    levels = gather_levels(LossTable(x, y, tuple("012" * SEVEN.size)))
    assert np.sqrt(levels.pooled_variance) < 0.02
    # seeds at 0.9, 1, 1.1: variance (0.01 + 0 + 0.01) / 2 = 0.01
    assert levels.shared_variance == pytest.approx(0.01, rel=0.1)
