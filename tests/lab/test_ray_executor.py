"""A real Ray cluster of two nodes on this machine; one of them is killed."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from test_faults import PLAIN, same_results

from reptile_scaling.config import make_config
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6399
SMALL = ("--object-store-memory=100000000", "--disable-usage-stats")


def ray_cli(*arguments: str) -> None:
    done = subprocess.run([RAY, *arguments], capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


def environment() -> dict[str, str]:
    paths = os.pathsep.join(p for p in sys.path if p)
    # A token that one local cluster leaves in the home folder locks the next one's nodes out.
    ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **ray, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths, "COLUMNS": "200"}


def start_node(log: Path) -> subprocess.Popen[bytes]:
    """A working node in a process group of its own, once it has joined; nodes that start at once may collide."""
    with open(log, "wb") as file:
        node = subprocess.Popen(
            [RAY, "start", f"--address=127.0.0.1:{PORT}", "--num-cpus=1", "--block", *SMALL],
            stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True,
        )  # fmt: skip
    for _ in range(600):
        if "Ray runtime started" in log.read_text():
            return node
        assert node.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def cluster(tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """The head runs nothing; the second node, which is handed over, works beside a third."""
    ray_cli("start", "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", *SMALL)
    nodes = [start_node(tmp_path / f"node_{i}.log") for i in range(2)]
    yield nodes[0]
    for node in nodes:
        if node.poll() is None:
            os.killpg(node.pid, 9)
        node.wait()
    ray_cli("stop", "--force")


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
        os.killpg(cluster.pid, 9)
        killed.set()

    threading.Thread(target=kill_when_at_work, daemon=True).start()
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, "run", str(config_file), "--out", str(out), "--executor", "ray"],
        capture_output=True, text=True, timeout=400, env={**environment(), "RAY_ADDRESS": f"127.0.0.1:{PORT}"},
    )  # fmt: skip
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
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SHARED_FOLDER + PLAIN, "run", str(config_file), "--out", str(out)]
        + ["--executor", "ray"],
        capture_output=True, text=True, timeout=200, env=environment(),
    )  # fmt: skip
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
