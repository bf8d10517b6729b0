"""What a run says of itself while it works: baselines and the cache of shared activations."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from reptile_scaling.analysis.progress import filling_lines
from reptile_scaling.config import make_config
from reptile_scaling.lab import worker
from reptile_scaling.lab.estimate import utterances_at_most
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.progress import shown_progress
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.records import BaselineStatus, Filling, Worker


def test_filling_is_told_as_utterances_and_tokens_of_a_second(tmp_path) -> None:
    run = RunDirectory(tmp_path)
    assert list(filling_lines(run)) == []
    run.write_filling(Filling("cpu", 300, 900, 6000, 12.0))
    # 600 utterances are left, at 25 a second.
    line = "sharing activations: 300 utterances of 900 at most, 500 tokens/s, ETA 24 s at most"
    assert list(filling_lines(run)) == [line]
    (filling,) = run.read_fillings()
    assert replace(filling, updated=0.0) == Filling("cpu", 300, 900, 6000, 12.0)
    run.forget_workers()
    assert run.read_fillings() == []


def test_sweep_tells_every_utterance_that_fills_the_cache_once(toy_settings, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(worker, "SECONDS_BETWEEN_STATUSES", 0.0)
    settings = {**toy_settings, "lora_layers": "top-1", "n_tasks_list": [2], "seeds": [0], "baselines": ["zero_step"]}
    run, config = RunDirectory(tmp_path), make_config(settings)
    plan = plan_sweep(config, run)
    run_sweep(plan, run)
    used = {u for pool in ("test", "validation") for task in run.read_pool(pool) for u in _utterances(task)}
    used |= {u for task in run.read_pool("train_seed_0") for row in task.support for u in row}  # Reptile reads no query
    (filling,) = run.read_fillings()
    assert filling.utterances == len(used) <= filling.at_most == utterances_at_most(config, plan.corpus)
    assert filling.tokens > filling.utterances and filling.seconds > 0


def test_terminal_sees_a_table_of_cells_and_each_news_once(toy_settings, tmp_path) -> None:
    settings = {**toy_settings, "n_tasks_list": [2], "seeds": [0], "baselines": ["zero_step"]}
    run, shown = RunDirectory(tmp_path), io.StringIO()
    run_sweep(plan_sweep(make_config(settings), run), run)
    run.write_worker(Worker("cpu 0", "cpu", 1, 1e9, "memory: 1 GB"))
    with shown_progress(run, Console(file=shown, force_terminal=True, width=120, color_system=None, highlight=False)):
        time.sleep(1.5)
    told = shown.getvalue()
    assert told.count("cpu 0: memory: 1 GB") == 1
    assert "cells; baselines 1/1 done" in told and "│ N = 2 │ 0    │ done  │" in told


def _utterances(task) -> set[int]:
    return {u for part in (task.support, task.query) for row in part for u in row}


def test_baseline_is_expected_told_and_forgotten(toy_settings, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(worker, "SECONDS_BETWEEN_STATUSES", 0.0)
    told: list[BaselineStatus] = []
    write = RunDirectory.write_baseline_status
    monkeypatch.setattr(RunDirectory, "write_baseline_status", lambda run, s: (told.append(s), write(run, s))[1])
    names = ["nearest_mean", "no_meta_tuned", "in_context"]
    config = make_config({**toy_settings, "curve_steps": [1, 3], "n_tasks_list": [2], "seeds": [0], "baselines": names})
    run = RunDirectory(tmp_path)
    run_sweep(plan_sweep(config, run), run)
    assert told[:3] == [BaselineStatus(name) for name in names]
    for name in ("no_meta_tuned", "in_context"):
        steps = [status.done for status in told if status.name == name and status.of]
        assert steps == sorted(steps) and len(steps) >= 6
        assert all(status.done <= status.of for status in told)
    assert run.read_baselines_left() == {} and not list((tmp_path / "baselines_left").iterdir())


def test_told_parts_never_go_back(tmp_path, monkeypatch) -> None:
    """Two lanes count up and may tell in the other order."""
    monkeypatch.setattr(worker, "SECONDS_BETWEEN_STATUSES", 0.0)
    run = RunDirectory(tmp_path)
    tell = worker._BaselineTold(run, "in_context")
    tell(2, 4)
    tell(1, 4)
    assert run.read_baselines_left()["in_context"].done == 2
    assert run.read_baselines_left()["in_context"].seconds_left == pytest.approx(0.0, abs=5.0)
