"""Worker processes that die, refuse or are asked to stop: jobs of a toy worker that only writes files."""

import threading
import time
from pathlib import Path

import pytest
from toy_worker import ToyWorker

from reptile_scaling.config import make_config
from reptile_scaling.errors import InputError
from reptile_scaling.interruption import StopRequested
from reptile_scaling.lab.executors import EXECUTORS, Assignment, Executor
from reptile_scaling.lab.executors.local import worker_names
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory

DEVICES = ("cpu", "cpu")


def perform(jobs: list[str], folder: Path, stop: threading.Event | None = None) -> dict[str, str]:
    """The jobs that were given up, with reasons."""
    given_up: dict[str, str] = {}
    EXECUTORS["local"].perform(
        Assignment(
            jobs, ToyWorker, DEVICES, folder, folders_of=lambda job: [], give_up=given_up.__setitem__,
            stop=stop or threading.Event(),
        )
    )  # fmt: skip
    return given_up


def done(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.done")}


def test_every_job_is_done_once(tmp_path) -> None:
    jobs = [f"job {i}" for i in range(9)]
    assert perform(jobs, tmp_path) == {}
    assert sorted((tmp_path / "attempts").read_text().splitlines()) == jobs
    assert done(tmp_path) == set(jobs)


def test_job_of_a_worker_that_died_goes_back_into_the_queue(tmp_path) -> None:
    assert perform(["a", "fatal once", "b", "c"], tmp_path) == {}
    assert done(tmp_path) == {"a", "fatal once", "b", "c"}
    assert (tmp_path / "attempts").read_text().count("fatal once") == 2


def test_job_that_kills_every_worker_is_given_up_and_the_others_go_on(tmp_path) -> None:
    given_up = perform(["a", "murderous", "b", "c"], tmp_path)
    assert given_up == {"murderous": "its worker process died 3 times (killed by signal 9)"}
    assert done(tmp_path) == {"a", "b", "c"}


def test_what_only_the_user_can_mend_ends_the_sweep_with_its_sentence(tmp_path) -> None:
    with pytest.raises(InputError, match="No space left on device.*: free some space"):
        perform(["a", "disk full", "b"], tmp_path)


def test_requested_stop_ends_every_worker_after_its_step(tmp_path) -> None:
    stop = threading.Event()

    def stop_once_begun() -> None:
        while not (tmp_path / "endless.tried").exists():
            time.sleep(0.05)
        stop.set()

    threading.Thread(target=stop_once_begun).start()
    with pytest.raises(StopRequested):
        perform(["endless", *(f"job {i}" for i in range(3)), "endless", "late"], tmp_path, stop)
    assert "endless" not in done(tmp_path) and "late" not in done(tmp_path)


def test_each_worker_has_a_name_of_its_own() -> None:
    assert worker_names(["cpu", "cuda:0", "cpu"]) == ["cpu-1", "cuda_0", "cpu-2"]
    assert worker_names(["cpu"]) == ["cpu"]


def in_turn(assignment: Assignment) -> None:
    """Everything in this process, one after another: the slow twin of the others."""
    perform = assignment.make_worker(assignment.folder, "turn", "cpu")
    for job in assignment.jobs:
        assert all(folder.is_relative_to(assignment.folder) for folder in assignment.folders_of(job))
        perform(job)
    perform.close()


def test_executor_is_an_entry_of_the_dict(toy_settings, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(EXECUTORS, "in_turn", Executor(in_turn, finds_devices=True))
    settings = {**toy_settings, "n_tasks_list": [2, 4], "seeds": [0], "baselines": ["zero_step"]}
    runs = []
    for changed in ({"executor": "in_turn", "devices": "auto"}, {}):
        runs.append(RunDirectory(tmp_path / changed.get("executor", "local")))
        run_sweep(plan_sweep(make_config({**settings, **changed}), runs[-1]), runs[-1])
    ours, theirs = ([result.meta_test_loss for result in run.results()] for run in runs)
    assert len(ours) == 2 and ours == theirs
    assert [worker.name for worker in runs[0].read_workers()] == ["turn"]


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"executor": "pbs"}, "executor = 'pbs' is unknown: use local or ray or slurm"),
        ({"executor": "ray", "devices": ["cpu"]}, "devices = cpu, but executor 'ray' places workers itself: use auto"),
    ],
)
def test_executor_that_cannot_be_used_is_refused(settings, sentence, toy_settings, tmp_path) -> None:
    with pytest.raises(InputError, match=sentence):
        plan_sweep(make_config({**toy_settings, **settings}), RunDirectory(tmp_path))
