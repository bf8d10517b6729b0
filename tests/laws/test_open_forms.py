"""β after the verdict: its interval reaches over the forms that the verdict leaves open."""

from functools import cache

import pytest

from reptile_scaling.laws import Law, fit_law, verdict_sentence
from reptile_scaling.laws.worlds import Truth, draw_table, draw_world
from reptile_scaling.randomness import stream


@cache
def drawn(truth: Truth, nth: int) -> tuple[Law, float]:
    """The nth sweep of a world, and its true exponent."""
    rng = stream(31, "open forms", truth)
    for _ in range(nth):
        draw_table(draw_world(truth, rng), rng)
    world = draw_world(truth, rng)
    return fit_law(draw_table(world, rng), n_bootstrap=80), world.parameters[1]


def test_exponent_interval_joins_the_open_forms_that_have_one() -> None:
    law, beta = drawn("power", 3)
    assert law.verdict.form == "power"
    assert law.verdict.alternatives == ("power_floor",)
    own, floor = (law.candidates[name].interval["beta"] for name in ("power", "power_floor"))
    low, high = law.exponent_interval() or pytest.fail("a power law has an exponent")
    assert (low, high) == (min(own[0], floor[0]), max(own[1], floor[1]))
    assert high > 1.2 * own[1]  # more than the form alone knows of
    assert low < beta < high


def test_a_broken_law_beside_it_has_no_exponent_of_the_same_meaning() -> None:
    law, _ = drawn("power_floor", 7)
    assert law.verdict.alternatives == ("broken", "smooth_break")
    assert law.exponent_interval() == law.candidates["power_floor"].interval["beta"]
    assert verdict_sentence(law).endswith("These data cannot rule out: broken, smooth break.")


def test_sentence_and_json_give_the_joined_interval() -> None:
    law, _ = drawn("power", 3)
    low, high = law.exponent_interval() or pytest.fail("a power law has an exponent")
    sentence = verdict_sentence(law)
    own = law.candidates["power"].interval["beta"]
    assert f"β = 0.332 (95 % interval {own[0]:.3g} to {own[1]:.3g})" in sentence
    assert sentence.endswith(f"rule out: power floor; over these forms β is between {low:.3g} and {high:.3g} (95 %).")
    written = law.as_json()
    assert written["verdict"]["beta_ci95"] == [low, high]
    assert written["forms"]["power"]["ci95"]["beta"] == list(law.candidates["power"].interval["beta"])


def test_a_verdict_without_an_exponent_has_no_interval() -> None:
    law, _ = drawn("log_linear", 1)
    assert law.verdict.form == "log_linear"
    assert law.exponent_interval() is None
    assert law.as_json()["verdict"]["beta_ci95"] is None
