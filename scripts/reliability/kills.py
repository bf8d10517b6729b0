"""Kills a sweep at random times, again and again, and compares what it has in the end with a whole one.

    python scripts/reliability/kills.py --kills 1000

Each round sweeps the six cells of `staged.tiny_sweep` with two workers in a folder of its own: the command is started,
killed with SIGKILL at a random time (all of its processes, in half of the cases after one worker alone), and started
again; after some kills it is left to end by itself. Counted are kills that met a living process, results that were
there before a kill and not after it or at the end, the work that a kill cost (seconds since the newest checkpoint of a
cell), and the growth of a worker's memory.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from staged.tiny_sweep import largest_difference, sweep, tiny_config

from reptile_scaling.config import Config, make_config
from reptile_scaling.runs.directory import RunDirectory

META_STEPS = 120
SECONDS_TO_KILL = 8.0
"""At most, once its workers are at work; one kill in five comes at any time before."""
KILLS_OF_A_ROUND = 8


@dataclass
class Counted:
    """What the kills did so far."""

    kills: int = 0
    of_workers: int = 0
    lost_cells: int = 0
    rounds: int = 0
    worst_difference: float = 0.0
    cost_seconds: list[float] = field(default_factory=list)
    growth: list[float] = field(default_factory=list)


def config_of(folder: Path) -> Config:
    """Two workers; long enough to be met at work."""
    settings = tiny_config(folder).model_dump(mode="json")
    changed = {"num_meta_steps": META_STEPS, "eval_interval": 10, "cells_per_cohort": 2}
    return make_config({**settings, **changed, "devices": ["cpu", "cpu"]})


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def finished(run: RunDirectory) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.path.glob("ntasks_*/final_result.json")}


def command(config_file: Path, out: Path) -> subprocess.Popen[bytes]:
    code = "from reptile_scaling.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", str(config_file), "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def one_round(config_file: Path, out: Path, whole: RunDirectory, rng: random.Random, counted: Counted) -> None:
    """Some kills, then to the end."""
    run, done = RunDirectory(out), dict[Path, int]()
    memory: dict[int, list[int]] = {}
    for attempt in range(KILLS_OF_A_ROUND + 1):
        process = command(config_file, out)
        if attempt < KILLS_OF_A_ROUND:
            ends = time.monotonic() + rng.uniform(0, 10) if rng.random() < 0.2 else None
        else:
            ends = float("inf")
        began = time.time()
        while process.poll() is None and (ends is None or time.monotonic() < ends):
            time.sleep(0.2)
            alive = [worker for worker in run.read_workers() if worker.updated > began]
            if alive and ends is None:
                ends = time.monotonic() + rng.uniform(0, SECONDS_TO_KILL)
            for worker in alive:
                with contextlib.suppress(OSError):
                    memory.setdefault(worker.pid, []).append(resident_bytes(worker.pid))
        if process.poll() is not None:
            break
        _kill(process, run, rng, counted)
        done |= finished(run)
    assert process.returncode == 0, f"{out}: exit {process.returncode}"
    counted.rounds += 1
    counted.lost_cells += sum(finished(run).get(path) != stamp for path, stamp in done.items())
    counted.worst_difference = max(counted.worst_difference, largest_difference(run, whole))
    counted.growth += [sizes[-1] / sizes[len(sizes) // 2] for sizes in memory.values() if len(sizes) > 40]


def _kill(process: subprocess.Popen[bytes], run: RunDirectory, rng: random.Random, counted: Counted) -> None:
    """One worker, or all of them with their leader."""
    before = finished(run)
    newest = [path.stat().st_mtime for path in run.path.glob("ntasks_*/checkpoint.safetensors")]
    workers = [w.pid for w in run.read_workers() if _is_ours(w.pid, process)]
    if workers and rng.random() < 0.5:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
            counted.of_workers += 1
        time.sleep(rng.uniform(0, 2))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    counted.kills += 1
    if newest:
        counted.cost_seconds.append(time.time() - max(newest))
    after = finished(run)
    counted.lost_cells += sum(after.get(path) != stamp for path, stamp in before.items())


def _is_ours(pid: int, leader: subprocess.Popen[bytes]) -> bool:
    """Whether a process is alive and of this start: a number of an earlier one may be a stranger's by now."""
    try:
        return os.getpgid(pid) == leader.pid
    except ProcessLookupError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, counted = random.Random(asked.seed), Counted()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = config_of(folder)
        config_file = folder / "config.yaml"
        config_file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        whole = sweep(make_config({**config.model_dump(), "devices": ["cpu"]}), folder / "whole")
        while counted.kills < asked.kills:
            one_round(config_file, folder / f"run_{counted.rounds}", whole, rng, counted)
            print(
                f"{counted.kills} kills ({counted.of_workers} first of a worker alone) over {counted.rounds} "
                f"sweeps: {counted.lost_cells} finished cells lost or written again, largest difference "
                f"{counted.worst_difference:.1e}, at most {max(counted.cost_seconds, default=0):.0f} s since the "
                f"newest checkpoint, a worker's memory in its later half × {max(counted.growth, default=1):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
