"""What goes in: every error names the value and a cure that works; nothing is dropped in silence."""

import numpy as np
import pandas as pd
import pytest

from laws.conftest import SEVEN, named_world, table_of
from reptile_scaling.errors import InputError
from reptile_scaling.laws import LossTable, fit_law, table_from_frame
from reptile_scaling.laws.table import from_scale, gather_levels, scatter_trend, to_scale
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


def test_scatter_that_shrinks_with_n_is_warned_of() -> None:
    rng = stream(0, "uneven")
    x = np.repeat(np.append(SEVEN, 1000.0), 3)
    y = 3.0 * x**-0.1 * np.exp(0.3 / x * rng.standard_normal(x.size))
    (warning,) = [w for w in fit_law(LossTable(x, y), n_bootstrap=20).warnings if "scatter" in w]
    assert warning.startswith("the seeds scatter less at large N (0.")
    assert "of the mean at 2, " in warning


def test_even_scatter_is_rarely_taken_for_uneven() -> None:
    found = 0
    for i in range(300):
        table = draw_table(named_world("KAPLAN"), stream(i, "even"))
        trend = scatter_trend(table, gather_levels(table))
        assert trend is not None
        found += trend.p_value < 0.01
    assert found <= 9  # 3 expected; 10 or more are drawn once in a thousand


def test_scatter_needs_seeds() -> None:
    table = table_of([1, 2, 4], [3.0, 2.0, 1.0])
    assert scatter_trend(table, gather_levels(table)) is None
    assert not any("scatter" in w for w in fit_law(table).warnings)


def test_what_a_seed_does_at_every_n_is_kept_apart_from_noise() -> None:
    rng = stream(1, "shared")
    x, effect = np.repeat(SEVEN, 3), np.tile([0.9, 1.0, 1.1], SEVEN.size)
    y = 3.0 * x**-0.3 * effect * np.exp(0.01 * rng.standard_normal(x.size))
    levels = gather_levels(LossTable(x, y, tuple("012" * SEVEN.size)))
    assert np.sqrt(levels.pooled_variance) < 0.02
    # seeds at 0.9, 1, 1.1: variance (0.01 + 0 + 0.01) / 2 = 0.01
    assert levels.shared_variance == pytest.approx(0.01, rel=0.1)
