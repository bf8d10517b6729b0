"""A hundred cells, two workers, random kills: nothing is lost and memory stays flat."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from reptile_scaling.config import make_config
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory

pytestmark = pytest.mark.endurance

SECONDS_BETWEEN_KILLS = 5.0


def resident_megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_soak(toy_settings, tmp_path) -> None:
    settings = {
        **toy_settings, "n_tasks_list": list(range(1, 11)), "seeds": list(range(10)), "devices": ["cpu", "cpu"],
        "cells_per_cohort": 8, "num_meta_steps": 8, "eval_interval": 4,
        "num_meta_test_tasks": 2, "num_validation_tasks": 2,
    }  # fmt: skip
    run = RunDirectory(tmp_path / "run")
    plan = plan_sweep(make_config(settings), run)
    finished, kills, rng = threading.Event(), [], random.Random(0)
    memory: dict[int, list[float]] = {}

    def chaos() -> None:
        last = time.monotonic()
        while not finished.wait(0.25):
            alive = [w.pid for w in run.read_workers() if Path(f"/proc/{w.pid}").exists()]
            for pid in alive:
                memory.setdefault(pid, []).append(resident_megabytes(pid))
            if alive and time.monotonic() - last > SECONDS_BETWEEN_KILLS and len(kills) < 4:
                kills.append(rng.choice(alive))
                os.kill(kills[-1], signal.SIGKILL)
                last = time.monotonic()

    thread = threading.Thread(target=chaos)
    thread.start()
    try:
        run_sweep(plan, run)
    finally:
        finished.set()
        thread.join()
    assert len(run.results()) == 100
    assert len(kills) >= 2
    assert len(run.read_baselines()) == 2
    long = [samples for samples in memory.values() if len(samples) > 40]  # of workers that lived for ten seconds
    assert long
    for samples in long:
        settled = samples[len(samples) // 2]
        assert samples[-1] < 1.15 * settled, samples
