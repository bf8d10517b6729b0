"""Kills a sweep at random times, again and again, and compares what it has in the end with a whole one.

    python scripts/reliability/kills.py command --kills 700 [--seed 0]      the command computes by itself
    python scripts/reliability/kills.py workers --kills 300 [--seed 0]      two workers of this machine
    python scripts/reliability/kills.py ray --kills 20 [--seed 0]           two nodes of a Ray cluster on this machine
    python scripts/reliability/kills.py print                               what stands in the file, kills nothing

Each round sweeps the six cells of `staged.tiny_sweep` in a folder of its own: the command is started, killed with
SIGKILL at a random time, and started again; after some kills it is left to end by itself. With workers four kills in
five are of one of them, and the command goes on with another in its place, until each has died twice: a third death
would give up a job. With Ray one of the command, a worker's process, a node with all of its processes, or the head is
killed, the command soon after. Counted are results that were there before a kill and not after it or at the end, the
work that a kill cost (seconds since a cell's newest checkpoint, or the start where that is later), and the growth of a
process's memory. Adds a line to results/reliability/kills.jsonl after each round, so a stop loses none; a seed whose
rounds stand there goes on behind them. Killing a head stops every Ray cluster of this machine. Commands are forked
from a process that has imported what they need: a kill in the seconds of imports has nothing to meet.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml
from staged.processes import MAIN, Started, begin, start
from staged.ray_cluster import RayCluster
from staged.tiny_sweep import largest_difference, sweep, tiny_config

from reptile_scaling.config import Config, make_config
from reptile_scaling.lab.executors.executor import ATTEMPTS
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.records import Worker

RESULTS = Path("results/reliability/kills.jsonl")
META_STEPS = 120
SECONDS_TO_KILL = 2.0
"""At most, once it is at work; one kill in five comes at any time before."""
SECONDS_TO_KILL_SOON = 4.0
KILLS_OF_A_ROUND = {"command": 25, "workers": 20, "ray": 3}
SHARE_OF_WORKERS = 0.8
"""Of the kills while there are workers that may die."""


@dataclass
class Round:
    """What the kills of one sweep did."""

    of: str
    seed: int
    number: int
    kills: dict[str, int] = field(default_factory=dict)
    """By what was killed first."""
    lost_cells: int = 0
    worst_difference: float = 0.0
    cost_seconds: list[float] = field(default_factory=list)
    growth: list[float] = field(default_factory=list)

    @property
    def n_kills(self) -> int:
        return sum(self.kills.values())


def config_of(folder: Path, of: str) -> Config:
    """Long enough to be met at work."""
    settings = tiny_config(folder).model_dump(mode="json")
    changed = {"num_meta_steps": META_STEPS, "eval_interval": 10, "cells_per_cohort": 2}
    devices = {"command": ["cpu"], "workers": ["cpu", "cpu"], "ray": "auto"}[of]
    return make_config({**settings, **changed, "devices": devices, "executor": "ray" if of == "ray" else "local"})


def resident_bytes(pid: int) -> int:
    """0 where the process has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def finished(run: RunDirectory) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.path.glob("ntasks_*/final_result.json")}


class Sweep:
    """One round: a command that is started again and again in one folder."""

    def __init__(self, config_file: Path, out: Path, rng: random.Random, found: Round) -> None:
        self._command, self._run, self._rng, self._found = (config_file, out), RunDirectory(out), rng, found
        self._memory: dict[int, list[int]] = {}

    def kill_until_enough(self, cluster: RayCluster | None) -> None:
        """Some kills, then to the end."""
        ended = False
        while not ended:
            before = finished(self._run)
            if cluster:
                cluster.mend()
            config_file, out = self._command
            process = start(
                MAIN, "run", config_file, "--out", out, environment=cluster.environment() if cluster else None
            )
            ended = self._kill_parts(process, cluster)
            printed, errors = process.communicate(timeout=600)
            self._count_lost(before)
        assert process.returncode == 0, f"{out}: exit {process.returncode}\n{printed[-2000:]}\n{errors[-2000:]}"
        self._found.growth = [round(s[-1] / s[len(s) // 2], 3) for s in self._memory.values() if len(s) > 40]

    def _kill_parts(self, process: Started, cluster: RayCluster | None) -> bool:
        """Kills what belongs to one start; whether the command was left to end by itself."""
        began, deaths = time.time(), Counter[str]()
        while self._found.n_kills < KILLS_OF_A_ROUND[self._found.of]:
            if not self._wait_to_kill(process, began):
                return True
            before = finished(self._run)
            newest = [path.stat().st_mtime for path in self._run.path.glob("ntasks_*/checkpoint.safetensors")]
            workers = [
                w for w in workers_of(self._run, began) if w.pid != process.pid and deaths[w.name] < ATTEMPTS - 1
            ]
            if cluster:
                killed = kill_ray(process, cluster, workers, self._rng)
            elif workers and self._rng.random() < SHARE_OF_WORKERS:
                killed, victim = "worker", self._rng.choice(workers)
                kill_process(victim.pid)
                deaths[victim.name] += 1
            else:
                killed = "command"
                kill_process(process.pid)
            self._found.kills[killed] = self._found.kills.get(killed, 0) + 1
            self._found.cost_seconds.append(round(time.time() - max([began, *newest]), 1))
            if killed != "worker" or cluster:
                return False
            self._count_lost(before)
            began = time.time()
        return True

    def _wait_to_kill(self, process: Started, began: float) -> bool:
        """To a random time at which the command still lives; whether there is one."""
        soon = self._rng.random() < 0.2
        ends = time.monotonic() + self._rng.uniform(0, SECONDS_TO_KILL_SOON) if soon else None
        while process.poll() is None and (ends is None or time.monotonic() < ends):
            time.sleep(0.05)
            alive = workers_of(self._run, began)
            if alive and ends is None:
                ends = time.monotonic() + self._rng.uniform(0, SECONDS_TO_KILL)
            for worker in alive:
                if taken := resident_bytes(worker.pid):
                    self._memory.setdefault(worker.pid, []).append(taken)
        return process.poll() is None

    def _count_lost(self, before: dict[Path, int]) -> None:
        after = finished(self._run)
        self._found.lost_cells += sum(after.get(path) != stamp for path, stamp in before.items())


def workers_of(run: RunDirectory, began: float) -> list[Worker]:
    """Those that have told of themselves since the command was started, and live."""
    return [w for w in run.read_workers() if w.updated > began and Path(f"/proc/{w.pid}").exists()]


def kill_ray(process: Started, cluster: RayCluster, workers: list[Worker], rng: random.Random) -> str:
    """Something of the cluster, and after some seconds in which the sweep may go on, the command."""
    first = rng.choice(["command", "node", "head", *(["worker"] if workers else [])])
    match first:
        case "worker":
            kill_process(rng.choice(workers).pid)
        case "node":
            cluster.kill_node(rng)
        case "head":
            cluster.kill_head()
    if first != "command":
        time.sleep(rng.uniform(0, 8))
    kill_process(process.pid)
    return first


def kill_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def rounds_of(of: str, seed: int | None = None) -> list[Round]:
    """That stand in the file, of one seed or of all."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rounds = [Round(**json.loads(line)) for line in lines]
    return [one for one in rounds if one.of == of and seed in (one.seed, None)]


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
        f"the newest checkpoint or the start, a process's memory in its later half × {max(growth, default=1):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("of", choices=[*KILLS_OF_A_ROUND, "print"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.of == "print":
        print(*(f"{of}: {sentence(rounds_of(of))}" for of in KILLS_OF_A_ROUND), sep="\n")
        return
    RESULTS.parent.mkdir(exist_ok=True)
    begin(["reptile_scaling.cli", "reptile_scaling.lab.sweep", "reptile_scaling.lab.worker", "reptile_scaling.report"])
    rounds = rounds_of(asked.of, asked.seed)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        config = config_of(folder, asked.of)
        config_file = folder / "config.yaml"
        config_file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        whole = sweep(make_config({**config.model_dump(), "executor": "local", "devices": ["cpu"]}), folder / "whole")
        cluster = stack.enter_context(RayCluster(folder)) if asked.of == "ray" else None
        while sum(one.n_kills for one in rounds) < asked.kills:
            found = Round(asked.of, asked.seed, len(rounds))
            rng = random.Random(f"{asked.seed} {asked.of} {len(rounds)}")
            out = folder / f"run_{len(rounds)}"
            Sweep(config_file, out, rng, found).kill_until_enough(cluster)
            found.worst_difference = largest_difference(RunDirectory(out), whole)
            rounds.append(found)
            with RESULTS.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            print(sentence(rounds), flush=True)
    print(sentence(rounds))


if __name__ == "__main__":
    main()
