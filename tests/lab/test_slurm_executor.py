"""Slurm's part is played by submitit's local executor: processes of this machine, the same signals and the same files."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_executors import ToyWorker, done
from test_faults import same_results

from reptile_scaling.config import make_config
from reptile_scaling.errors import InputError
from reptile_scaling.interruption import StopRequested
from reptile_scaling.lab.executors import EXECUTORS, Assignment
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.lease import LEASE, held

LOCAL = {"cluster": "local"}
SLURM = {"executor": "slurm", "slurm": LOCAL, "devices": "auto", "cells_per_cohort": 2, "baselines": []}


@pytest.fixture(autouse=True)
def jobs_see_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the job's Python does on a cluster, it finds what this one imports; a lost job has no result to wait for."""
    import submitit

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(p) for p in (Path(__file__).parent, *os.sys.path) if str(p)))
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0.1)
    monkeypatch.setattr("reptile_scaling.lab.executors.slurm.SECONDS_BETWEEN_LOOKS", 0.1)


def perform(jobs: list[str], folder: Path, stop: threading.Event | None = None, **options: object) -> dict[str, str]:
    """The jobs that were given up, with reasons."""
    given_up: dict[str, str] = {}
    EXECUTORS["slurm"].perform(
        Assignment(
            jobs, ToyWorker, ("cpu",), folder, folders_of=lambda job: [folder / job], give_up=given_up.__setitem__,
            stop=stop or threading.Event(), options=LOCAL | options,
        )
    )  # fmt: skip
    return given_up


def once(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    def wait() -> None:
        while not condition():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_jobs_are_done_and_one_that_dies_each_time_is_given_up(tmp_path) -> None:
    given_up = perform(["a", "fatal once", "murderous"], tmp_path)
    assert done(tmp_path) == {"a", "fatal once"}
    assert (tmp_path / "attempts").read_text().count("murderous") == 3
    assert list(given_up) == ["murderous"] and "its Slurm job was lost 3 times" in given_up["murderous"]
    assert list((tmp_path / "slurm").glob("*.pkl")) == [] and list((tmp_path / "slurm").glob("*_log.err"))
