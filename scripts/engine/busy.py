"""What is left of the engine's speed beside another program that keeps as many threads busy as the machine has cores.

    python scripts/engine/busy.py [--dtype float32] [--repeats 3]

Inner steps (of the demo's validation tasks, all activations cached) and the filling of the prefix cache, each idle and
beside the program in turn; prints medians and their ratio as JSON. Only idle machines tell.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import numpy as np

from reptile_scaling.bench.bench import describe_machine
from reptile_scaling.config import load_config
from reptile_scaling.lab.provenance import software_versions
from reptile_scaling.learning.evaluation import evaluate, test_loop, validation_episodes
from reptile_scaling.learning.workbench import Workbench, fresh_initialisation, open_corpus, open_workbench

RIVAL = "import torch; torch.set_num_threads({cores}); a = torch.randn(1024, 1024)\nwhile True: a @ a"
SETTLED = 3.0
"""Seconds until the other program computes."""
PORTION = 300
"""Utterances filled each time."""
ROUNDS = 5
"""Evaluations of the validation tasks each time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        settings = (f"dtype={given.dtype}", "devices=[cpu]", f"prefix_cache_dir={folder}")
        config = load_config("demo", settings)
        workbench = open_workbench(config, open_corpus(config), "cpu")
        portions = iter(np.array_split(np.arange(2 * given.repeats * PORTION), 2 * given.repeats))
        inner_steps(workbench)  # fills what it needs
        measures = {"inner_steps": lambda: inner_steps(workbench), "prefix_cache": lambda: filling(workbench, portions)}
        found = {name: compared(measure, given.repeats) for name, measure in measures.items()}
    print(json.dumps({"machine": describe_machine(), "dtype": given.dtype, **found, "versions": software_versions()}))


def compared(measure: Callable[[], float], repeats: int) -> dict[str, float]:
    """Median speed idle and beside the other program, measured by turns, and the second in terms of the first."""
    idle, busy = [], []
    for _ in range(repeats):
        idle.append(measure())
        with other_program():
            busy.append(measure())
    speeds = statistics.median(idle), statistics.median(busy)
    return {"idle": round(speeds[0], 1), "busy": round(speeds[1], 1), "share": round(speeds[1] / speeds[0], 3)}


@contextmanager
def other_program() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", RIVAL.format(cores=os.cpu_count())])
    try:
        time.sleep(SETTLED)
        yield
    finally:
        process.kill()
        process.wait()


def inner_steps(workbench: Workbench) -> float:
    """Tasks × inner steps a second."""
    episodes, loop = validation_episodes(workbench), test_loop(workbench.config)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        evaluate(workbench.engine, fresh_initialisation(workbench, 0), episodes, loop)
    return ROUNDS * len(episodes) * loop.steps / (time.perf_counter() - began)


def filling(workbench: Workbench, portions: Iterator[np.ndarray]) -> float:
    """Utterances a second, of the next portion that has not been filled."""
    portion = next(portions)
    began = time.perf_counter()
    workbench.engine.remember(portion)
    return len(portion) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
