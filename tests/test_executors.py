"""Worker processes that die, refuse or are asked to stop: jobs of a toy worker that only writes files."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from reptile_scaling.errors import InputError
from reptile_scaling.executors import map_devices, worker_names
from reptile_scaling.interruption import StopRequested, stop_if_requested

DEVICES = ("cpu", "cpu")


class ToyWorker:
    """Performs a job by writing its name; some jobs go wrong."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        self.folder, self.name = folder, name

    def __call__(self, job: str) -> None:
        with open(self.folder / "attempts", "a") as file:
            file.write(job + "\n")
        first = not (self.folder / f"{job}.tried").exists()
        (self.folder / f"{job}.tried").touch()
        if job == "murderous" or (job == "fatal once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "disk full":
            raise InputError("'x' cannot be written (No space left on device): free some space")
        while job == "endless":
            time.sleep(0.01)
            stop_if_requested()
        (self.folder / f"{job}.done").write_text(self.name)

    def close(self) -> None:
        (self.folder / "closed").touch()


def perform(jobs: list[str], folder: Path, stop: threading.Event | None = None) -> dict[str, str]:
    """The jobs that were given up, with reasons."""
    given_up: dict[str, str] = {}
    map_devices(partial(ToyWorker, folder), jobs, DEVICES, stop or threading.Event(), given_up.__setitem__)
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
