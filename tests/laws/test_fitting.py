"""The solver against planted truths, against scipy, and against its own arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from laws.conftest import SEVEN, WORLDS, named_world
from reptile_scaling.errors import InputError
from reptile_scaling.laws.fitting import fit_huber, fit_many, profile_rss, residuals
from reptile_scaling.laws.forms import FORMS, POWER, POWER_FLOOR, evaluate, form_named
from reptile_scaling.laws.linear import Residual
from reptile_scaling.laws.worlds import draw_table
from reptile_scaling.randomness import stream

ONES = np.ones((1, SEVEN.size))
RESIDUALS: tuple[Residual, ...] = ("log", "plain")


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", [name for name in WORLDS if name != "RISING"])
def test_noiseless_truth_is_recovered(name: str, residual: Residual) -> None:
    world = named_world(name)
    fits = fit_many(world.form, SEVEN, world.curve(SEVEN)[None], ONES, residual=residual)
    np.testing.assert_allclose(fits.parameters[0], world.parameters, rtol=1e-6)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", ["KAPLAN", "WITH_FLOOR", "RISING"])
def test_search_agrees_with_scipy_least_squares_started_at_the_truth(name: str, residual: Residual) -> None:
    world = named_world(name)
    y = draw_table(named_world(name, n_seeds=1), stream(0, "scipy", name)).loss
    ours = fit_many(world.form, SEVEN, y[None], ONES, residual=residual)
    slow = least_squares(
        lambda p: residuals(world.form, p[None], SEVEN, y[None], residual)[0], world.parameters, xtol=1e-15, ftol=1e-15
    )
    assert ours.rss[0] <= 2 * slow.cost * (1 + 1e-9)  # scipy's cost is half the sum of squares
    np.testing.assert_allclose(ours.parameters[0], slow.x, rtol=1e-4)


@pytest.mark.parametrize("name", list(FORMS))
def test_rss_is_the_sum_recomputed_from_the_parameters(name: str) -> None:
    y = draw_table(named_world("WITH_FLOOR", n_seeds=1), stream(1, "rss")).loss
    weights = np.array([[3.0, 1, 2, 2, 1, 5, 1]])
    fits = fit_many(FORMS[name], SEVEN, y[None], weights, residual="plain")
    expected = np.sum(weights[0] * (y - evaluate(FORMS[name], fits.parameters, SEVEN)[0]) ** 2)
    assert fits.rss[0] == pytest.approx(expected, rel=1e-12)


def test_many_tables_at_once_equal_one_at_a_time() -> None:
    rng = stream(2, "many")
    y = np.stack([draw_table(named_world("WITH_FLOOR", n_seeds=1), rng).loss for _ in range(20)])
    together = fit_many(POWER_FLOOR, SEVEN, y, ONES, residual="log").parameters
    alone = [fit_many(POWER_FLOOR, SEVEN, row[None], ONES, residual="log").parameters[0] for row in y]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_unknown_form_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        InputError,
        match=r"form = 'cubic' is unknown: choose one of power, power_floor, log_linear, constant, broken, smooth",
    ):
        form_named("cubic")


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e3))
def test_units_of_n_and_of_loss_change_the_amplitude_only(x_unit: float, y_unit: float) -> None:
    y = draw_table(named_world("WITH_FLOOR", n_seeds=1), stream(3, "units")).loss
    plain = fit_many(POWER_FLOOR, SEVEN, y[None], ONES, residual="log").parameters[0]
    scaled = fit_many(POWER_FLOOR, SEVEN * x_unit, y_unit * y[None], ONES, residual="log").parameters[0]
    a, beta, floor = plain
    # 1e-6: the minimum of a sum of squares fixes β to the square root of the machine's precision.
    np.testing.assert_allclose(scaled, [a * y_unit * x_unit**beta, beta, floor * y_unit], rtol=1e-6)


def test_floor_and_amplitude_of_a_loss_are_never_negative() -> None:
    rng = stream(4, "signs")
    y = np.exp(rng.normal(size=(200, SEVEN.size)))
    parameters = fit_many(POWER_FLOOR, SEVEN, y, ONES, residual="log").parameters
    assert parameters[:, [0, 2]].min() >= 0.0


def test_level_of_weight_zero_has_no_say() -> None:
    y = 3.0 * SEVEN**-0.3
    spoilt, weights = y.copy(), ONES.copy()
    spoilt[3], weights[0, 3] = 40.0, 0.0
    assert fit_many(POWER, SEVEN, spoilt[None], weights, residual="log").parameters[0, 1] == pytest.approx(
        0.3, abs=1e-7
    )


def test_one_run_gone_astray_moves_huber_a_fifth_as_far_as_least_squares() -> None:
    x, y = np.repeat(SEVEN, 3), 3.0 * np.repeat(SEVEN, 3) ** -0.3
    y = y * np.exp(0.01 * stream(5, "huber").standard_normal(y.size))
    y[-1] *= 2.0
    means = y.reshape(-1, 3).mean(axis=1)
    squares = fit_many(POWER, SEVEN, means[None], 3 * ONES, residual="log").parameters[0, 1]
    robust = fit_huber(POWER, x, y, "log", ONES[0])[1]
    assert abs(robust - 0.3) < abs(squares - 0.3) / 5


def test_profile_is_smallest_at_the_fit_and_equals_its_rss_there() -> None:
    y = draw_table(named_world("WITH_FLOOR", n_seeds=1), stream(6, "profile")).loss
    fits = fit_many(POWER_FLOOR, SEVEN, y[None], ONES, residual="log")
    beta = fits.parameters[0, 1]
    around = profile_rss(POWER_FLOOR, SEVEN, y, ONES[0], beta * np.array([0.9, 1.0, 1.1]), "log")
    assert around[1] == pytest.approx(fits.rss[0], rel=1e-9)
    assert around[1] < min(around[0], around[2])


def test_a_smooth_break_with_no_width_is_the_sharp_one() -> None:
    sharp, smooth = FORMS["broken"], FORMS["smooth_break"]
    parameters = np.array([[1.5, 0.05, 0.6, 20.0, 1e-6]])
    np.testing.assert_allclose(
        evaluate(smooth, parameters, SEVEN), evaluate(sharp, parameters[:, :4], SEVEN), rtol=1e-6
    )


@pytest.mark.parametrize("name", list(WORLDS))
def test_every_form_s_inverse_undoes_its_curve(name: str) -> None:
    world = named_world(name)
    if not world.falls:
        pytest.skip("a curve that does not fall reaches no lower target")
    for x in (7.0, 60.0):
        target = float(world.curve(np.array([x]))[0])
        found = world.form.invert([np.array([p]) for p in world.parameters], target)
        assert float(found[0]) == pytest.approx(x, rel=1e-6)
