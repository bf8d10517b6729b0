"""Surfaces over two quantities: planted truths, intervals, what each verdict asks of the data."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from reptile_scaling.errors import InputError
from reptile_scaling.laws.surface_forms import CLASSES, INNER_STEPS, META_STEPS, SurfaceForm, effective_tasks
from reptile_scaling.laws.surface_search import polish
from reptile_scaling.laws.surfaces import SURFACE_LAWS, SurfaceLaw, SurfaceTable, fit_meta_steps, surface_value
from reptile_scaling.randomness import stream

N = np.array([2.0, 8.0, 32.0, 128.0, 512.0])
TRUTHS: dict[str, tuple[SurfaceForm, tuple[float, ...], np.ndarray]] = {
    "meta_steps": (META_STEPS, (0.1, 1.0, 0.02, 0.3, 10.0, 0.6), np.geomspace(4, 400, 6)),
    "inner_steps": (INNER_STEPS, (0.2, 0.8, 0.5, 0.3, 1.0), np.array([1.0, 2.0, 5.0, 10.0, 20.0, 50.0])),
    "classes": (CLASSES, (0.3, 1.0, 2.0, 0.4, 0.7), np.array([5.0, 10.0, 15.0, 25.0, 50.0])),
}


def _table(name: str, noise: float, seed: int = 0, n_seeds: int = 3) -> SurfaceTable:
    form, parameters, second = TRUTHS[name]
    rows = [(n, z, s) for n in N for z in second for s in range(n_seeds)]
    n, z = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    z = z * 4 / n if name == "meta_steps" else z
    # A run's rows err together: half of the variance is the run's own.
    run = tuple(f"{n:g} {s}" if name != "classes" else f"{n:g} {z:g} {s}" for n, z, s in rows)
    rng = stream(seed, "surface", name)
    shared = dict(zip(sorted(set(run)), rng.standard_normal(len(set(run))), strict=True))
    wobble = (np.array([shared[r] for r in run]) + rng.standard_normal(n.size)) / np.sqrt(2)
    return SurfaceTable(n, z, surface_value(form, np.array(parameters), n, z) * np.exp(noise * wobble), run, name)


def _fit(name: str, noise: float, seed: int = 0, n_draws: int = 40) -> SurfaceLaw:
    return SURFACE_LAWS[name](_table(name, noise, seed), n_draws=n_draws)


@pytest.mark.parametrize("name", list(TRUTHS))
def test_planted_surface_is_recovered_without_noise(name: str) -> None:
    form, parameters, _ = TRUTHS[name]
    law = _fit(name, 1e-6, n_draws=3)
    np.testing.assert_allclose([law.parameters[p] for p in form.parameters], parameters, rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("meta_steps", "more_visits_hurt"), ("inner_steps", "tasks_are_worth_steps"), ("classes", "tasks_and_classes")],
)
def test_what_was_planted_is_said_with_intervals_around_it(name: str, verdict: str) -> None:
    law = _fit(name, 0.03)
    assert law.verdict == verdict
    assert law.reasons
    for value, low, high in law.answers.values():
        assert low <= high
        assert np.isfinite([value, low, high]).all()
    table = _table(name, 0.0)
    value, low, high = law.predict(table.n_tasks, table.z)
    assert (low <= high).all()
    np.testing.assert_allclose(value, table.loss, rtol=0.05)


def test_all_tables_at_once_reach_what_scipy_reaches_one_by_one() -> None:
    table, (form, planted, _) = _table("meta_steps", 0.1), TRUTHS["meta_steps"]
    noise = stream(1, "polish").standard_normal((5, table.loss.size))
    log_loss, k = np.log(table.loss) + 0.1 * noise, len(form.amplitudes)
    _, cost = polish(form, table.n_tasks, table.z, log_loss, np.tile(planted, (5, 1)))

    def missed(p: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(y - np.log(surface_value(form, np.r_[np.exp(p[:k]), p[k:]], table.n_tasks, table.z)))

    start = np.r_[np.log(planted[:k]), planted[k:]]
    low, high = [-60.0] * k + [0.0125, 0.125, 0.0625], [60.0] * k + [4.0, 400.0, 4.0]
    slow = [2 * least_squares(missed, start, bounds=(low, high), args=(y,)).cost for y in log_loss]
    np.testing.assert_allclose(cost, slow, rtol=1e-4)  # scipy's cost is half the sum; its steps end at 1e-8


def test_sentences_name_the_best_visits_and_where_more_hurts() -> None:
    law = _fit("meta_steps", 0.03)
    value, low, high = law.answers["best_visits_at_2"]
    assert (
        f"N = 2 is best visited {value:.3g} times (95 % interval {low:.3g} to {high:.3g}, of 8 to 800" in law.sentence
    )
    assert "; more visits hurt at N = 2, " in law.sentence
    worth = _fit("inner_steps", 0.03).sentence
    assert worth.startswith("Ten times the tasks are worth 2.") and "all of N = 2 to 512" in worth
    assert _fit("classes", 0.03).sentence.startswith("From N = 2 and 5 classes, tenfold tasks cut the loss by")


def test_ten_times_the_tasks_are_worth_twice_the_steps_as_planted() -> None:
    value, low, high = _fit("inner_steps", 0.02).answers["steps_per_tenfold"]
    assert low < 10**0.3 < high  # worth = 0.3
    assert value == pytest.approx(10**0.3, rel=0.2)


def test_without_harm_more_visits_are_not_said_to_hurt() -> None:
    table = _table("meta_steps", 0.02)
    truth = np.array([0.1, 1.0, 0.0, 0.3, 1000.0, 0.6])
    loss = surface_value(META_STEPS, truth, table.n_tasks, table.z) * table.loss / _table("meta_steps", 0.0).loss
    law = fit_meta_steps(SurfaceTable(table.n_tasks, table.z, loss, table.run, "visits"), n_draws=40)
    assert law.verdict != "more_visits_hurt"
    assert "at no N is it certain that more visits hurt" in law.sentence


def test_classes_that_do_nothing_are_not_credited() -> None:
    table = _table("classes", 0.02)
    loss = (0.3 + table.n_tasks**-0.4) * table.loss / _table("classes", 0.0).loss
    law = SURFACE_LAWS["classes"](SurfaceTable(table.n_tasks, table.z, loss, table.run, "classes"), n_draws=40)
    assert law.verdict == "tasks_only"


def test_a_task_seen_again_is_worth_less_each_time_and_at_most_as_planted() -> None:
    worth = [float(effective_tasks(np.array([10.0]), np.array([v]), 2.0)[0]) for v in (0.5, 1.0, 2.0, 3.0, 1e6)]
    # half the tasks seen: 5; all once: 10; then 10 · (1 + 2 · (1 − e^(−R / 2))), with R = 1: 17.87
    assert worth[:2] == [5.0, 10.0]
    assert worth[2] == pytest.approx(17.869, abs=0.001)
    assert worth[3] - worth[2] < worth[2] - worth[1]
    assert worth[4] == pytest.approx(30.0)


def test_tables_that_no_surface_can_use_are_refused_with_the_cure() -> None:
    ones = np.ones(4)
    with pytest.raises(InputError, match=r"loss = -1 has no logarithm: drop that row"):
        SurfaceTable(ones, ones, np.array([1.0, -1, 1, 1]), ("a",) * 4, "visits")
    with pytest.raises(InputError, match=r"4 rows of 1 runs for 6 parameters: give more rows than parameters"):
        fit_meta_steps(SurfaceTable(ones, ones, ones, ("a",) * 4, "visits"))
