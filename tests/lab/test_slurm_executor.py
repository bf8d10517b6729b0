"""Slurm's part is played by submitit's local executor: processes of this machine, the same signals and files."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_faults import same_results
from toy_worker import ToyWorker

from reptile_scaling.config import make_config
from reptile_scaling.errors import InputError
from reptile_scaling.interruption import StopRequested
from reptile_scaling.lab.executors import EXECUTORS, Assignment
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.lease import LEASE, Lease, held
from reptile_scaling.storage import read_record

pytestmark = pytest.mark.endurance

LOCAL = {"cluster": "local"}
SLURM = {"executor": "slurm", "slurm": LOCAL, "devices": "auto", "cells_per_cohort": 2, "baselines": []}


@pytest.fixture(autouse=True)
def jobs_see_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the job's Python does on a cluster, it finds what this one imports; a lost job has no result to wait for."""
    import submitit

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(p) for p in (Path(__file__).parent, *sys.path) if str(p)))
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


def done(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.done")}


def process_of(folder: Path) -> int:
    """Of the job that holds a folder."""
    return read_record(folder / LEASE, Lease).pid


def once(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    def wait() -> None:
        while not condition():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_jobs_are_done_and_one_that_dies_each_time_is_given_up(tmp_path) -> None:
    """Beside them one is told that its time is up, and goes on when Slurm has queued it again."""
    folder = tmp_path / "long"
    once((tmp_path / "long.tried").exists, lambda: os.kill(process_of(folder), signal.SIGUSR2))
    given_up = perform(["long", "murderous", "fatal once"], tmp_path)
    assert done(tmp_path) == {"long", "fatal once"}
    attempts = (tmp_path / "attempts").read_text().splitlines()
    assert {job: attempts.count(job) for job in attempts} == {"long": 2, "murderous": 3, "fatal once": 2}
    assert list(given_up) == ["murderous"] and "its Slurm job was lost 3 times" in given_up["murderous"]
    assert list((tmp_path / "slurm").glob("*.pkl")) == [] and list((tmp_path / "slurm").glob("*_log.err"))
    assert not (folder / LEASE).exists()


def test_requested_stop_lets_jobs_save_and_leaves_none_behind(tmp_path) -> None:
    stop = threading.Event()
    once((tmp_path / "endless.tried").exists, stop.set)
    with pytest.raises(StopRequested):
        perform(["endless"], tmp_path, stop)
    assert done(tmp_path) == set() and not (tmp_path / "endless" / LEASE).exists()
    assert (tmp_path / "closed").exists()


def test_what_another_process_holds_is_not_computed_a_second_time(tmp_path) -> None:
    with held(tmp_path / "a"), pytest.raises(InputError, match=r"another process is running in .*/a' .*: wait for it"):
        perform(["a"], tmp_path)
    assert not (tmp_path / "attempts").exists()


def test_cells_that_an_outlived_job_holds_are_refused_before_anything_is_touched(toy_settings, tmp_path) -> None:
    run = RunDirectory(tmp_path)
    plan = plan_sweep(make_config({**toy_settings, "n_tasks_list": [2], "seeds": [0]}), run)
    with held(run.cell(Cell(2, 0)).path), pytest.raises(InputError, match="another process is running in .*ntasks_2"):
        run_sweep(plan, run)
    assert not run.is_begun


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"partitions": "gpu"}, "Unknown argument 'partitions' for executor 'slurm'.*: mend that key"),
        ({"time": "4h"}, "slurm.time = '4h' is no number of minutes: write 240"),
        ({"cpus_per_task": "two"}, "cpus_per_task.*: mend that key"),
        ({"cluster": "pbs"}, "any executor named pbs.*: mend that key"),
        ({"cluster": "slurm"}, "finds no srun here: run it on a node that submits jobs"),
    ],
)
def test_options_that_cannot_work_are_refused(options, sentence, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=sentence):
        perform(["a"], tmp_path, **options)


def test_what_is_asked_of_slurm_stands_in_its_batch_file(tmp_path, monkeypatch) -> None:
    """As far as it goes without a cluster: a program in sbatch's place keeps what it is given."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {"srun": "", "sbatch": 'cp "$1" "$KEPT"; echo invalid partition >&2; exit 1'}.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    with pytest.raises(InputError, match=r"sbatch refused the job \(.*invalid partition.*\): mend what slurm = "):
        perform(["a"], tmp_path, cluster="slurm", partition="gpu", gres="gpu:1", time=240, setup=["module load cuda"])
    kept = (tmp_path / "kept").read_text()
    for line in ("--partition=gpu", "--gres=gpu:1", "--time=240", "--signal=USR2@90", "--job-name="):
        assert f"#SBATCH {line}" in kept
    assert "\nmodule load cuda\n" in kept


def test_sweep_that_runs_out_of_time_gives_what_one_machine_gives(toy_settings, tmp_path) -> None:
    steps = {"num_meta_steps": 60, "eval_interval": 20}
    settings = {**toy_settings, **SLURM, **steps, "n_tasks_list": [2, 8], "seeds": [0]}
    run, alone = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "alone")
    cell = run.cell(Cell(2, 0))

    def time_is_up() -> None:
        os.kill(process_of(cell.path), signal.SIGUSR2)

    once(lambda: cell.read_status().meta_step > 2, time_is_up)
    run_sweep(plan_sweep(make_config(settings), run), run)
    (log,) = (run.path / "slurm").glob("*_log.out")
    assert "Requeued job" in log.read_text()
    run_sweep(plan_sweep(make_config({**settings, "executor": "local", "devices": "cpu"}), alone), alone)
    same_results(run, alone)
    assert [worker.name.startswith("slurm_") for worker in run.read_workers()] == [True]
