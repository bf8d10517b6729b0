"""A sweep that is killed, starved, poisoned or stopped: what was computed stays, the rest is as if nothing happened."""

import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from staged.processes import MAIN, Started, start

import reptile_scaling.lab.worker as worker
import reptile_scaling.learning.cohort as cohort
import reptile_scaling.learning.inner_loop as inner_loop
from reptile_scaling.analysis.law_of_run import losses_of_run
from reptile_scaling.config import Config, make_config
from reptile_scaling.errors import StorageError
from reptile_scaling.interruption import StopRequested
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.learning.cell_training import CellTraining
from reptile_scaling.learning.meta_step import Visit
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.storage import write_bytes

pytestmark = pytest.mark.endurance

# Cuts a write in half, at the n-th file, as a power cut does: nothing after it happens.
DIE_AT_WRITE = """
import os, signal, sys
left, replace = int(sys.argv.pop(1)), os.replace
def replace_or_die(source, target):
    global left
    left -= 1
    if left == 0:
        if str(source).endswith(".part"):  # what is being written; a rename tears nothing
            with open(source, "r+b") as file:
                file.truncate(os.path.getsize(source) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replace_or_die
from reptile_scaling.cli import main
main()
"""


@pytest.fixture(scope="module")
def small(toy_settings) -> dict[str, object]:
    return {**toy_settings, "n_tasks_list": [2, 8, 16], "num_meta_steps": 12, "eval_interval": 3, "cells_per_cohort": 4}


@pytest.fixture(scope="module")
def config_file(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(small))
    return path


def swept(settings: dict[str, object], folder: Path) -> RunDirectory:
    run = RunDirectory(folder)
    run_sweep(plan_sweep(make_config(settings), run), run)
    return run


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The uninterrupted sweep."""
    return swept(small, tmp_path_factory.mktemp("whole"))


def same_results(run: RunDirectory, other: RunDirectory, atol: float = 1e-6) -> None:
    assert [r.n_tasks for r in run.results()] == [r.n_tasks for r in other.results()]
    for cell in other.cells():
        ours, theirs = run.cell(cell), other.cell(cell)
        for column in ("loss", "accuracy"):
            np.testing.assert_allclose(
                [getattr(task, column) for task in ours.read_test_tasks()],
                [getattr(task, column) for task in theirs.read_test_tasks()],
                atol=atol,
            )
        for rows, others, column in (
            (ours.read_train_stats(), theirs.read_train_stats(), "support_loss_last_step"),
            (ours.read_eval_stats(), theirs.read_eval_stats(), "validation_loss"),
        ):
            assert [row.meta_step for row in rows] == [row.meta_step for row in others]
            np.testing.assert_allclose(
                [getattr(row, column) for row in rows], [getattr(row, column) for row in others], atol=atol
            )


def assert_about_the_same(run: RunDirectory, other: RunDirectory, cell: Cell) -> None:
    """Where tasks were grouped anew, sums are in another order; Adam with β1 = 0 divides by |g|, so noise grows."""
    ours, theirs = (r.cell(cell).read_result().meta_test_loss for r in (run, other))
    assert ours == pytest.approx(theirs, rel=0.02)


def test_killed_again_and_again_in_the_middle_of_a_write_equals_uninterrupted(config_file, tmp_path, whole) -> None:
    out, rng = tmp_path / "out", random.Random(0)
    for _ in range(3):
        killed = start(DIE_AT_WRITE, rng.randint(12, 40), "run", config_file, "--out", out)
        printed, errors = killed.communicate(timeout=120)
        assert killed.returncode == -signal.SIGKILL, errors
    done_before = {p: p.stat().st_mtime_ns for p in out.rglob("final_result.json")}
    finished = start(MAIN, "run", config_file, "--out", out)
    printed, errors = finished.communicate(timeout=240)
    assert finished.returncode == 0, (printed, errors)
    assert {p: p.stat().st_mtime_ns for p in done_before} == done_before, "a finished cell was touched"
    same_results(RunDirectory(out), whole)
    assert "not in the fit" not in printed
    assert not list(out.rglob("*.part")), "what was cut was not swept up"


def wait_for_step(out: Path, process: Started, at_least: int = 1) -> None:
    """Until some cell has taken so many steps."""
    for _ in range(1200):
        states = [json.loads(p.read_text()) for p in out.glob("*/status.json")]
        if any(s["state"] == "running" and s["meta_step"] >= at_least for s in states):
            return
        assert process.poll() is None, process.communicate(1.0)
        time.sleep(0.05)
    raise AssertionError("no cell took a step in a minute")


def test_ctrl_c_saves_the_step_and_the_same_command_goes_on(small, tmp_path) -> None:
    long = {**small, "n_tasks_list": [2, 8], "seeds": [0], "num_meta_steps": 60, "eval_interval": 60}
    config_file, out = tmp_path / "long.yaml", tmp_path / "out"
    config_file.write_text(yaml.safe_dump(long))
    process = start(MAIN, "run", config_file, "--out", out)
    wait_for_step(out, process)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command to go on" in printed and "once more stops at once" in errors
    run = RunDirectory(out)
    statuses = [run.cell(cell).read_status() for cell in run.cells()]
    assert all(s.state == "pending" and s.meta_step > 0 for s in statuses)
    assert run.cell(Cell(2, 0)).read_checkpoints()[0].meta_step == statuses[0].meta_step
    again = start(MAIN, "run", config_file, "--out", out)
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    same_results(run, swept(long, tmp_path / "whole"))


def test_second_ctrl_c_stops_at_once(small, tmp_path) -> None:
    config_file, out = tmp_path / "long.yaml", tmp_path / "out"
    config_file.write_text(yaml.safe_dump({**small, "num_meta_steps": 100_000, "eval_interval": 100_000}))
    slow = MAIN.replace("; main()", "\nimport time, reptile_scaling.learning.cohort as c\nstep = c.meta_step\n") + (
        "def slow(*a):\n    outcomes = step(*a)\n    time.sleep(60)\n    return outcomes\nc.meta_step = slow\nmain()"
    )
    process = start(slow, "run", config_file, "--out", out)
    wait_for_step(out, process, at_least=0)
    time.sleep(2)  # into the slow step
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and "Stopped at once" in printed


def test_workers_end_with_the_command_that_is_killed(small, tmp_path) -> None:
    config_file, out = tmp_path / "long.yaml", tmp_path / "out"
    long = {**small, "num_meta_steps": 100_000, "eval_interval": 100_000, "devices": ["cpu", "cpu"]}
    config_file.write_text(yaml.safe_dump(long))
    process = start(MAIN, "run", config_file, "--out", out)
    wait_for_step(out, process)
    pids = [worker.pid for worker in RunDirectory(out).read_workers()]
    assert pids and process.pid not in pids
    process.send_signal(signal.SIGKILL)
    for _ in range(100):
        alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive
    process.communicate(timeout=10)


def failing_in(cell: Cell, error: Exception):
    """What a meta-step asks of a cell; of this one it raises."""
    visits = CellTraining.next_visits

    def next_visits(training: CellTraining) -> list[Visit]:
        if training.cell == cell:
            raise error
        return visits(training)

    return next_visits


def test_cell_that_raises_fails_alone_and_the_fit_names_it(small, tmp_path, whole, monkeypatch) -> None:
    monkeypatch.setattr(CellTraining, "next_visits", failing_in(Cell(8, 1), RuntimeError("a kernel\nwent wrong")))
    run = swept(small, tmp_path / "run")
    status = run.cell(Cell(8, 1)).read_status()
    assert (status.state, status.reason) == ("failed", "RuntimeError: a kernel went wrong")
    assert len(run.results()) == 5
    for cell in set(run.cells()) - {Cell(8, 1)}:
        assert_about_the_same(run, whole, cell)
    (named,) = losses_of_run(run).dropped
    assert named == "ntasks_8_seed_1 is failed (RuntimeError: a kernel went wrong)"
    monkeypatch.undo()
    run_sweep(plan_sweep(make_config(small), run), run)
    assert len(run.results()) == 6  # the same command tries it again


def test_baseline_that_raises_is_recorded_and_tried_again(small, tmp_path, monkeypatch) -> None:
    measure = worker.run_baseline

    def failing(workbench, name: str, folder: Path, tell):
        if name == "no_meta":
            raise RuntimeError("a kernel went wrong")
        return measure(workbench, name, folder, tell)

    monkeypatch.setattr(worker, "run_baseline", failing)
    settings = {**small, "n_tasks_list": [2], "seeds": [0]}
    run = swept(settings, tmp_path / "run")
    assert run.read_baseline_failures() == {"no_meta": "RuntimeError: a kernel went wrong"}
    assert "zero_step" in run.read_baselines()
    monkeypatch.undo()
    run_sweep(plan_sweep(make_config(settings), run), run)
    assert run.read_baseline_failures() == {}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_retried_in_smaller_groups(error, small, tmp_path, whole, monkeypatch) -> None:
    adapt, sizes = inner_loop.adapt_support, []

    def starved(support, batch, *watching):
        sizes.append(support.n_tasks)
        if support.n_tasks > 2:
            raise error
        return adapt(support, batch, *watching)

    monkeypatch.setattr(inner_loop, "adapt_support", starved)
    run = swept(small, tmp_path / "run")
    assert len(run.results()) == 6 and sizes[0] > 2 >= sizes[-1]
    for cell in run.cells():
        assert_about_the_same(run, whole, cell)


def test_cell_too_large_for_one_task_at_a_time_fails_with_the_reason(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(CellTraining, "next_visits", failing_in(Cell(2, 0), MemoryError("not even one")))
    run = swept({**small, "n_tasks_list": [2], "seeds": [0, 1]}, tmp_path / "run")
    assert run.cell(Cell(2, 0)).read_status().reason == "MemoryError: not even one"
    assert run.cell(Cell(2, 1)).is_done


def test_full_disk_stops_with_a_sentence_and_resumes_when_there_is_room(config_file, tmp_path, whole) -> None:
    """A limit on the size of files stands for the disk: checkpoints and adapters do not fit."""
    out = tmp_path / "out"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))\n" + MAIN
    process = start(limited, "run", config_file, "--out", out)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "cannot be written (File too large): raise the limit on file sizes" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    again = start(MAIN, "run", config_file, "--out", out)
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    same_results(RunDirectory(out), whole)


def test_read_only_folder_is_one_sentence(tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    message = r"run' cannot be written \(Read-only file system\): mount it for writing"
    with pytest.raises(StorageError, match=message), RunDirectory(tmp_path / "run").locked():
        pass


def test_checkpoint_cut_short_costs_one_interval_and_two_cost_one_cell(small, tmp_path, whole, monkeypatch) -> None:
    step = cohort.meta_step

    def stop_at_ten(workbench, states, visits):
        if states[0].meta_step == 10:
            raise KeyboardInterrupt  # at once: nothing is saved after step 10
        return step(workbench, states, visits)

    monkeypatch.setattr(cohort, "meta_step", stop_at_ten)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan_sweep(make_config(small), run), run)
    monkeypatch.undo()
    first, second = run.cell(Cell(2, 0)), run.cell(Cell(2, 1))
    assert [c.meta_step for c in first.read_checkpoints()] == [10, 9]
    for path in (first.path / "checkpoint.safetensors", *second.path.glob("checkpoint*.safetensors")):
        path.write_bytes(path.read_bytes()[:300])
    assert [c.meta_step for c in first.read_checkpoints()] == [9]
    assert second.read_checkpoints() == []
    run_sweep(plan_sweep(make_config(small), run), run)
    status = second.read_status()
    assert status.state == "done"
    assert re.fullmatch(r"started anew, for checkpoint.safetensors is not whole \(.*\)", status.reason)
    assert [run.cell(cell).read_status().reason for cell in run.cells()].count("") == 5
    for cell in run.cells():
        assert_about_the_same(run, whole, cell)


def test_clock_that_jumps_changes_nothing(small, tmp_path, whole, monkeypatch) -> None:
    real, began = time.time, time.time()
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * ((real() - began) > 1))
    run = swept(small, tmp_path / "run")
    same_results(run, whole)
    assert all(0 < r.wall_seconds < 600 for r in run.results())


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.json"
    write_bytes(path, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=r"No space left on device\): free some space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_two_workers_give_what_one_gives(small, tmp_path, whole) -> None:
    settings: dict[str, object] = {**small, "devices": ["cpu", "cpu"]}
    run = swept(settings, tmp_path / "run")
    same_results(run, whole)
    assert {worker.name for worker in run.read_workers()} == {"cpu-1", "cpu-2"}


def test_lost_worker_shows_as_stale_and_status_reads_the_folder_alone(small, tmp_path) -> None:
    from reptile_scaling.analysis.progress import is_stale, worker_lines
    from reptile_scaling.runs.records import Worker

    run = RunDirectory(tmp_path)
    run.begin(Config(), "f" * 64, {})
    run.write_worker(Worker("cpu", "cpu", 16, 1e9, "memory: 1 GB"))
    (worker,) = run.read_workers()
    assert not is_stale(worker)
    dead = json.loads((tmp_path / "workers" / "cpu.json").read_text()) | {"updated": time.time() - 100}
    (tmp_path / "workers" / "cpu.json").write_text(json.dumps(dead))
    (line,) = worker_lines(run, [(Cell(2, 0), run.cell(Cell(2, 0)).read_status())])
    assert "no sign of life for 2 min: run the same command again" in line


def test_nothing_of_a_sweep_lives_on_in_the_process_that_ran_it(small, tmp_path, monkeypatch) -> None:
    """A notebook goes on after its sweep: no thread says that a worker lives, or holds its model."""
    swept({**small, "n_tasks_list": [2], "num_meta_steps": 3}, tmp_path / "one")
    monkeypatch.setattr(worker, "run_baseline", stop_the_user_asked_for)
    with pytest.raises(StopRequested):
        swept({**small, "n_tasks_list": [2], "num_meta_steps": 3}, tmp_path / "stopped")
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            thread.join(5.0)
    assert [thread for thread in threading.enumerate() if thread.name == "heartbeat"] == []


def stop_the_user_asked_for(*_: object) -> None:
    raise StopRequested
