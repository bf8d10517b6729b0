"""A real Ray cluster of two nodes on this machine; one of them is killed."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from staged.processes import MAIN, call
from staged.ray_cluster import RayCluster, environment
from test_faults import same_results

from reptile_scaling.config import make_config
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

pytestmark = pytest.mark.endurance


@pytest.fixture
def cluster(tmp_path) -> Iterator[RayCluster]:
    """The head runs nothing; the first node, which is killed, works beside a second."""
    with RayCluster(tmp_path) as cluster:
        yield cluster


def test_cluster_gives_what_one_machine_gives_though_a_node_is_killed(cluster, toy_settings, tmp_path) -> None:
    settings = {
        **toy_settings, "n_tasks_list": [2, 4, 8, 16], "cells_per_cohort": 2, "num_meta_steps": 150,
        "eval_interval": 10, "devices": "auto",
    }  # fmt: skip
    config_file, out = tmp_path / "c.yaml", tmp_path / "out"
    config_file.write_text(yaml.safe_dump(settings))
    killed = threading.Event()

    def kill_when_at_work() -> None:
        # Both nodes must be at work, or the one that dies may never have begun.
        while not (len([*out.glob("workers/*.json")]) == 2 and any(out.glob("*/checkpoint.safetensors"))):
            time.sleep(0.2)
        cluster.kill_node()
        killed.set()

    threading.Thread(target=kill_when_at_work, daemon=True).start()
    done = call("run", config_file, "--out", out, "--executor", "ray", environment=cluster.environment(), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert killed.is_set()
    assert len(RunDirectory(out).read_workers()) == 2
    alone = RunDirectory(tmp_path / "alone")
    run_sweep(plan_sweep(make_config({**settings, "devices": "cpu"}), alone), alone)
    same_results(RunDirectory(out), alone)


WITHOUT_SHARED_FOLDER = """
import reptile_scaling.lab.executors.ray as ray_executor
write = ray_executor.write_bytes
ray_executor.write_bytes = lambda path, content: None if path.name == ray_executor.TOKEN else write(path, content)
"""


def test_local_cluster_whose_worker_does_not_see_the_folder(toy_settings, tmp_path) -> None:
    """No token in the folder, so the worker takes it for another machine's and its files come through Ray."""
    settings = {**toy_settings, "n_tasks_list": [2, 8], "seeds": [0], "devices": "auto"}
    config_file, out = tmp_path / "c.yaml", tmp_path / "out"
    config_file.write_text(yaml.safe_dump(settings))
    blind = WITHOUT_SHARED_FOLDER + MAIN
    done = call("run", config_file, "--out", out, "--executor", "ray", code=blind, environment=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    alone = RunDirectory(tmp_path / "alone")
    run_sweep(plan_sweep(make_config({**settings, "devices": "cpu"}), alone), alone)
    same_results(RunDirectory(out), alone)
    assert (RunDirectory(out).cell(Cell(8, 0)).adapter_folder / "adapter_model.safetensors").is_file()


def test_worker_that_does_not_see_the_folder_sends_its_files(toy_settings, tmp_path) -> None:
    """The actor's own part without a cluster: what it writes comes back as bytes, once."""
    from reptile_scaling.lab.executors.ray import ClusterWorker
    from reptile_scaling.storage import write_bytes

    def make_worker(root: Path, name: str, device: str):
        def perform(job: str) -> None:
            before = root / job / "checkpoint"
            write_bytes(root / job / "result", (before.read_text() if before.exists() else "fresh").encode())

        return perform

    worker = ClusterWorker(make_worker, tmp_path / "elsewhere", "token", "node")
    assert worker.perform("cell", {"cell/checkpoint": b"step 7"}, "cpu") == "done"
    sent = worker.changed_files()
    assert sent["cell/result"] == b"step 7"
    assert worker.changed_files() == {}
