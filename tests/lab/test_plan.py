"""Which cells train together, and in which order."""

from reptile_scaling.config import make_config
from reptile_scaling.lab.plan import CohortJob, plan_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell


def test_first_cohort_has_a_seed_of_every_level(toy_settings, tmp_path) -> None:
    config = make_config({**toy_settings, "n_tasks_list": [2, 8, 4], "seeds": [1, 0], "cells_per_cohort": 3})
    jobs = plan_sweep(config, RunDirectory(tmp_path)).jobs
    assert [job.cells for job in jobs if isinstance(job, CohortJob)] == [
        tuple(Cell(n, seed) for n in (2, 4, 8)) for seed in (0, 1)
    ]
