"""Kills a sweep at random times, again and again, and compares what it has in the end with a whole one.

    python scripts/reliability/kills.py --kills 1000 [--seed 0]          two workers of this machine
    python scripts/reliability/kills.py --kills 20 --ray [--seed 0]      two nodes of a Ray cluster on this machine

Each round sweeps the six cells of `staged.tiny_sweep` in a folder of its own: the command is started, killed with
SIGKILL at a random time, and started again; after some kills it is left to end by itself. Killed is the command with
its workers, in half of the cases after one worker alone; with Ray one of the command, a worker's process, a node with
all of its processes, or the head. Counted are kills that met a living process, results that were there before a kill
and not after it or at the end, the work that a kill cost (seconds since the newest checkpoint of a cell), and the
growth of a worker's memory. Adds a line to results/reliability/kills.jsonl after each round, so a stop loses none; a
seed whose rounds stand there goes on behind them. Killing a head stops every Ray cluster of this machine.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml
from staged.processes import MAIN, Started, begin, start
from staged.ray_cluster import RayCluster
from staged.tiny_sweep import largest_difference, sweep, tiny_config

from reptile_scaling.config import Config, make_config
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.records import Worker

RESULTS = Path("results/reliability/kills.jsonl")
META_STEPS = 120
SECONDS_TO_KILL = 4.0
"""At most, once its workers are at work; one kill in five comes at any time before."""
KILLS_OF_A_ROUND = {"local": 8, "ray": 3}


@dataclass
class Round:
    """What the kills of one sweep did."""

    executor: str
    seed: int
    number: int
    kills: dict[str, int] = field(default_factory=dict)
    """By what was killed first."""
    lost_cells: int = 0
    worst_difference: float = 0.0
    cost_seconds: list[float] = field(default_factory=list)
    growth: list[float] = field(default_factory=list)


def config_of(folder: Path, executor: str) -> Config:
    """Two workers; long enough to be met at work."""
    settings = tiny_config(folder).model_dump(mode="json")
    changed = {"num_meta_steps": META_STEPS, "eval_interval": 10, "cells_per_cohort": 2, "executor": executor}
    return make_config({**settings, **changed, "devices": "auto" if executor == "ray" else ["cpu", "cpu"]})


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def finished(run: RunDirectory) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.path.glob("ntasks_*/final_result.json")}


def one_round(config_file: Path, out: Path, whole: RunDirectory, rng: random.Random, found: Round) -> None:
    """Some kills, then to the end."""
    run, done = RunDirectory(out), dict[Path, int]()
    memory: dict[int, list[int]] = {}
    n_kills = KILLS_OF_A_ROUND[found.executor]
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(RayCluster(out.parent)) if found.executor == "ray" else None
        environment = cluster.environment() if cluster else None
        for attempt in range(n_kills + 1):
            if cluster:
                cluster.mend()
            began = time.time()
            process = start(MAIN, "run", config_file, "--out", out, environment=environment)
            if attempt < n_kills:
                ends = time.monotonic() + rng.uniform(0, 10) if rng.random() < 0.2 else None
            else:
                ends = float("inf")
            while process.poll() is None and (ends is None or time.monotonic() < ends):
                time.sleep(0.2)
                alive = workers_of(run, began)
                if alive and ends is None:
                    ends = time.monotonic() + rng.uniform(0, SECONDS_TO_KILL)
                for worker in alive:
                    with contextlib.suppress(OSError):
                        memory.setdefault(worker.pid, []).append(resident_bytes(worker.pid))
            if process.poll() is not None:
                break
            before = finished(run)
            newest = [path.stat().st_mtime for path in run.path.glob("ntasks_*/checkpoint.safetensors")]
            killed = kill_ray(process, cluster, run, began, rng) if cluster else kill(process, run, began, rng)
            found.kills[killed] = found.kills.get(killed, 0) + 1
            if newest:
                found.cost_seconds.append(round(time.time() - max(newest), 1))
            done |= finished(run)
            found.lost_cells += sum(done.get(path) != stamp for path, stamp in before.items())
        printed, errors = process.communicate(timeout=600)
        assert process.returncode == 0, f"{out}: exit {process.returncode}\n{printed[-2000:]}\n{errors[-2000:]}"
    found.lost_cells += sum(finished(run).get(path) != stamp for path, stamp in done.items())
    found.worst_difference = largest_difference(run, whole)
    found.growth = [round(s[-1] / s[len(s) // 2], 3) for s in memory.values() if len(s) > 40]


def workers_of(run: RunDirectory, began: float) -> list[Worker]:
    """Those that have told of themselves since the command was started, and live."""
    return [w for w in run.read_workers() if w.updated > began and Path(f"/proc/{w.pid}").exists()]


def kill(process: Started, run: RunDirectory, began: float, rng: random.Random) -> str:
    """One worker, or at once the command; its workers end with it."""
    workers = workers_of(run, began)
    first = "worker" if workers and rng.random() < 0.5 else "command"
    if first == "worker":
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers).pid, signal.SIGKILL)
        time.sleep(rng.uniform(0, 2))
    end(process)
    return first


def kill_ray(process: Started, cluster: RayCluster, run: RunDirectory, began: float, rng: random.Random) -> str:
    """Something of the cluster, and after some seconds in which the sweep may go on, the command."""
    workers = workers_of(run, began)
    first = rng.choice(["command", "node", "head", *(["worker"] if workers else [])])
    match first:
        case "worker":
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers).pid, signal.SIGKILL)
        case "node":
            cluster.kill_node(rng)
        case "head":
            cluster.kill_head()
    if first != "command":
        time.sleep(rng.uniform(0, 8))
    end(process)
    return first


def end(process: Started) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def rounds_of(executor: str, seed: int) -> list[Round]:
    """That stand in the file."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rounds = [Round(**json.loads(line)) for line in lines]
    return [one for one in rounds if (one.executor, one.seed) == (executor, seed)]


def sentence(rounds: list[Round]) -> str:
    kills: dict[str, int] = {}
    for one in rounds:
        for what, n in one.kills.items():
            kills[what] = kills.get(what, 0) + n
    of_what = ", ".join(f"{n} of a {what}" if what != "command" else f"{n} of the command" for what, n in kills.items())
    costs = [cost for one in rounds for cost in one.cost_seconds]
    growth = [ratio for one in rounds for ratio in one.growth]
    return (
        f"{sum(kills.values())} kills ({of_what}) over {len(rounds)} sweeps: "
        f"{sum(one.lost_cells for one in rounds)} finished cells lost or written again, largest difference "
        f"{max((one.worst_difference for one in rounds), default=0):.1e}, at most {max(costs, default=0):.0f} s since "
        f"the newest checkpoint, a worker's memory in its later half × {max(growth, default=1):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of this machine")
    asked = parser.parse_args()
    executor = "ray" if asked.ray else "local"
    RESULTS.parent.mkdir(exist_ok=True)
    begin()
    rounds = rounds_of(executor, asked.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = config_of(folder, executor)
        config_file = folder / "config.yaml"
        config_file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        whole = sweep(make_config({**config.model_dump(), "executor": "local", "devices": ["cpu"]}), folder / "whole")
        while sum(n for one in rounds for n in one.kills.values()) < asked.kills:
            found = Round(executor, asked.seed, len(rounds))
            rng = random.Random(f"{asked.seed} {executor} {len(rounds)}")
            one_round(config_file, folder / f"run_{len(rounds)}", whole, rng, found)
            rounds.append(found)
            with RESULTS.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            print(sentence(rounds), flush=True)
    print(sentence(rounds))


if __name__ == "__main__":
    main()
