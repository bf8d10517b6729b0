"""Which cells train together, and in which order."""

from reptile_scaling.config import make_config
from reptile_scaling.lab.plan import BaselineJob, CohortJob, plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell


def test_first_cohort_has_a_seed_of_every_level(toy_settings, tmp_path) -> None:
    config = make_config({**toy_settings, "n_tasks_list": [2, 8, 4], "seeds": [1, 0], "cells_per_cohort": 3})
    jobs = plan_sweep(config, RunDirectory(tmp_path)).jobs
    assert [job.cells for job in jobs if isinstance(job, CohortJob)] == [
        tuple(Cell(n, seed) for n in (2, 4, 8)) for seed in (0, 1)
    ]


def test_fine_tuning_begins_as_often_as_there_are_seeds_also_when_these_become_more(toy_settings, tmp_path) -> None:
    settings = {**toy_settings, "n_tasks_list": [2], "num_meta_steps": 1, "baselines": ["nearest_mean", "no_meta"]}
    config, run = make_config({**settings, "seeds": [0]}), RunDirectory(tmp_path)
    run_sweep(plan_sweep(config, run), run)
    before = run.read_baselines()
    more = plan_sweep(make_config({**settings, "seeds": [0, 1]}), run)
    assert [job for job in more.jobs if isinstance(job, BaselineJob)] == [BaselineJob("no_meta")]
    run_sweep(more, run)
    after = run.read_baselines()
    assert after["nearest_mean"] == before["nearest_mean"]
    assert after["no_meta"].initialisations[:1] == before["no_meta"].initialisations
    assert len(after["no_meta"].initialisations) == 2
    fewer = plan_sweep(config, run)
    assert not fewer.jobs


def test_reptile_from_one_step_and_equal_rows_is_said_to_learn_nothing(toy_settings, tmp_path) -> None:
    said = "k_inner = 1 learns nothing: set k_inner to 2 or more"
    for settings, is_said in (
        ({"k_inner": 1}, True),
        ({"k_inner": 1, "head": "zero", "slots": "fixed"}, True),
        ({"k_inner": 1, "slots": "fixed"}, False),
        ({"k_inner": 1, "head": "prototype"}, False),
        ({"k_inner": 1, "algorithm": "fomaml"}, False),
        ({"k_inner": 2}, False),
    ):
        plan = plan_sweep(make_config({**toy_settings, **settings}), RunDirectory(tmp_path))
        assert any(said in line for line in plan.summary()) == is_said, settings
