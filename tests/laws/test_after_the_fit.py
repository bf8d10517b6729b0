"""Extrapolation, plans, comparison of arms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as t_distribution

from laws.conftest import SEVEN, law_of, named_world, table_of
from reptile_scaling.errors import InputError
from reptile_scaling.laws import LossTable, compare_arms, fit_law, next_cells, plan_levels
from reptile_scaling.laws.worlds import draw_table
from reptile_scaling.randomness import stream


@pytest.mark.parametrize("name", ["KAPLAN", "WITH_FLOOR", "STRAIGHT"])
def test_tasks_needed_is_the_inverse_of_predict(name: str) -> None:
    law = law_of(name)
    needed = law.tasks_needed(float(law.predict(300).value[0]))
    assert needed.x == pytest.approx(300, rel=1e-6)
    assert needed.low < 300 < needed.high


def test_prediction_covers_the_truth_at_twice_the_largest_n() -> None:
    world, rng = named_world("WITH_FLOOR"), stream(1, "extrapolate")
    truth = world.curve(np.array([400.0]))[0]
    predictions = [fit_law(draw_table(world, rng), n_bootstrap=50).predict(400) for _ in range(30)]
    # At a true coverage of 95 % the count is 28.5 ± 1.2; three standard deviations below is 25.
    assert sum(p.low[0] <= truth <= p.high[0] for p in predictions) >= 25


def test_prediction_warns_beyond_four_times_the_largest_n_and_not_before() -> None:
    law = law_of("KAPLAN")
    assert law.predict(800).warnings == ()
    assert "801 is 4 times the largest N measured (200)" in law.predict(801).warnings[0]


def test_a_target_below_the_floor_takes_infinitely_many_tasks() -> None:
    law = law_of("WITH_FLOOR", noise=0.01)
    needed = law.tasks_needed(0.3)
    assert np.isinf(needed.x)
    assert needed.as_json()["x"] is None
    assert "never reaches 0.3" in needed.warnings[-1]


def test_a_flat_law_promises_no_target() -> None:
    law = law_of("FLAT")
    assert "the verdict is flat" in law.tasks_needed(1.0).warnings[0]


def test_plans_narrow_beta_keep_to_the_budget_and_come_best_first() -> None:
    law = fit_law(draw_table(named_world("WITH_FLOOR", n_seeds=2), stream(5, "plan")), n_bootstrap=200)
    plans = plan_levels(law, budget=14_000.0, task_steps_per_run=1000.0)
    widths = [plan.beta_width for plan in plans]
    assert widths == sorted(widths)
    assert all(plan.task_steps <= 14_000.0 for plan in plans)
    assert plans[0].beta_width_now is not None
    assert widths[0] < 0.8 * plans[0].beta_width_now


def test_a_plan_s_promise_is_kept_by_the_runs_it_asks_for() -> None:
    # The promised width holds 95 % of errors; the errors of sweeps really run that way are counted against it.
    rng = stream(6, "promise")
    world, many_seeds = named_world("KAPLAN", n_seeds=2), named_world("KAPLAN", n_seeds=20)
    law = fit_law(draw_table(world, rng), n_bootstrap=200)
    known_noise = fit_law(draw_table(many_seeds, rng), n_bootstrap=200)
    plan = plan_levels(replace(law, candidates=known_noise.candidates), budget=14)[-1]
    new_x = np.repeat(np.array(plan.levels, dtype=float), plan.new_seeds)
    errors = []
    for _ in range(100):
        old = draw_table(world, rng)
        new = world.curve(new_x) * np.exp(0.03 * rng.standard_normal(new_x.size))
        slope = np.polyfit(np.log(np.r_[old.x, new_x]), np.log(np.r_[old.loss, new]), 1)[0]
        errors.append(abs(-slope - 0.3))
    # The noise is known to 4 % from 133 degrees of freedom; a 95 % point of 100 errors is known to 10 %.
    assert plan.beta_width == pytest.approx(2 * np.quantile(errors, 0.95), rel=0.25)


def test_a_plan_for_two_levels_says_what_it_assumed() -> None:
    plans = plan_levels(fit_law(table_of([5, 5, 50, 50], [2.0, 2.1, 1.0, 1.1])), budget=12)
    assert plans
    assert "no form is identified yet" in plans[0].assumptions[0]


def test_a_budget_below_one_run_is_refused_with_the_price() -> None:
    law = law_of("KAPLAN")
    with pytest.raises(InputError, match=r"budget = 10 pays for no run of 40: give 40"):
        plan_levels(law, budget=10.0, task_steps_per_run=40.0)
    assert plan_levels(law, budget=40.0, task_steps_per_run=40.0)


def _arms(shift: float, seed: int) -> tuple[LossTable, LossTable]:
    """B is A with its exponent larger by `shift`; a strong effect of each run's seed is shared by both arms."""
    rng = stream(seed, "arms")
    x = np.repeat(SEVEN, 3)
    shared = 0.05 * rng.standard_normal(x.size)
    a, b = (np.exp(shared + 0.01 * rng.standard_normal(x.size)) * 3.0 * x**-beta for beta in (0.3, 0.3 + shift))
    return LossTable(x, a, tuple("012" * 7)), LossTable(x, b, tuple("012" * 7))


def test_pairing_by_seed_finds_what_independent_arms_cannot() -> None:
    a, b = _arms(0.02, 0)
    paired = compare_arms(a, b)
    independent = compare_arms(LossTable(a.x, a.loss), LossTable(b.x, b.loss))
    assert paired.n_pairs == 21
    assert independent.warnings == ("no seed ran in both arms: they are compared as independent",)
    assert paired.exponent_interval is not None
    assert independent.exponent_interval is not None
    low, high = paired.exponent_interval
    assert 0 < low < 0.02 < high
    assert np.diff(independent.exponent_interval)[0] > 2 * (high - low)
    assert (paired.high < 0).sum() > (independent.high < 0).sum()


def test_arms_without_a_difference_show_none_in_19_of_20_sweeps() -> None:
    found = [compare_arms(*_arms(0.0, seed), n_bootstrap=200) for seed in range(1, 41)]
    covered = [c.exponent_interval[0] <= 0 <= c.exponent_interval[1] for c in found if c.exponent_interval]
    assert sum(covered) >= 36
    per_level = np.mean([(c.low <= 0) & (c.high >= 0) for c in found])
    assert 0.92 < per_level < 0.98


def test_arms_without_a_common_n_are_refused_with_the_cure() -> None:
    with pytest.raises(InputError, match=r"the arms share no n_tasks: measure both at the same levels"):
        compare_arms(table_of([2, 4], [1, 1]), table_of([3, 5], [1, 1]))


def test_width_that_one_run_promises_is_the_width_of_a_straight_line_with_it() -> None:
    law = law_of("KAPLAN")
    power = law.candidates["power"]
    for cell in next_cells(law, price=lambda n: 1.0)[:3]:
        # By hand: var β = s² / Σ w (log x − mean)², all runs counted, noise taken as even or as the law has it.
        x = np.append(np.repeat(law.levels.x, law.levels.n_seeds), cell.x)
        w = 1.0 / np.maximum(law.levels.noise_law.spread(x), 0.3) ** 2
        centred = np.log(x) - w @ np.log(x) / w.sum()
        width = 2 * t_distribution.ppf(0.975, power.df + 1) * np.sqrt(power.variance / (w @ centred**2))
        assert cell.width_after == pytest.approx(width, rel=1e-4)
        assert cell.width_after < cell.width_now


def test_a_dear_end_gives_way_to_a_cheap_one() -> None:
    law = law_of("KAPLAN")
    same, dear = next_cells(law, price=lambda n: 1.0), next_cells(law, price=lambda n: n)
    assert same[0].x in (1.0, 800.0)  # the ends tell most of a slope
    assert dear[0].x <= 2.0
    assert [cell.gain_per_price for cell in dear] == sorted((c.gain_per_price for c in dear), reverse=True)


def test_to_decide_between_two_forms_the_planner_goes_where_they_part() -> None:
    law = fit_law(draw_table(named_world("KAPLAN", noise=0.05, n_seeds=2), stream(10, "cell")), n_bootstrap=100)
    first = next_cells(law, price=lambda n: 1.0, goal="decide")[0]
    assert first.x in (1.0, 800.0)
    assert first.separation_after > first.separation_now


def test_a_price_of_nothing_is_refused_and_so_is_a_law_without_a_form() -> None:
    law = law_of("KAPLAN")
    with pytest.raises(InputError, match=r"price\(1\) = 0: give a price above 0"):
        next_cells(law, price=lambda n: 0.0)
    with pytest.raises(InputError, match=r"the verdict is insufficient_data: nothing to narrow yet, run plan_levels'"):
        next_cells(fit_law(table_of([5, 5, 50, 50], [2.0, 2.1, 1.0, 1.1])), price=lambda n: 1.0)
