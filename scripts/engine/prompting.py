"""What the two prompting baselines take on the demo's test tasks: seconds of all tasks, and a task.

python scripts/engine/prompting.py [--dtype float32] [--some 6]
In-context tasks share nothing, so a few of them tell the pace; zero-shot shares utterances, so it is run on all, and on
the same few each by itself, which tells what sharing is worth. Only idle machines tell.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from reptile_scaling.baselines import BASELINES
from reptile_scaling.config import load_config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.lab.provenance import software_versions
from reptile_scaling.learning.evaluation import test_episodes
from reptile_scaling.learning.workbench import Workbench, open_corpus, open_workbench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--some", type=int, default=6)
    given = parser.parse_args()
    config = load_config("demo", (f"dtype={given.dtype}", "devices=[cpu]"))
    workbench = open_workbench(config, open_corpus(config), "cpu")
    episodes = test_episodes(workbench)
    some = episodes[: given.some]
    shared = seconds(workbench, "zero_shot_labels", episodes)
    by_task = sum(seconds(workbench, "zero_shot_labels", [one]) for one in some) * len(episodes) / len(some)
    row = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(workbench.engine.backbone.dtype),
        "zero_shot_labels": shared,
        "zero_shot_labels_task_by_task": by_task,
        "sharing": by_task / shared,
        "in_context": seconds(workbench, "in_context", some) * len(episodes) / len(some),
        "n_tasks": len(episodes),
        "versions": software_versions(),
    }
    print(json.dumps(row))


def seconds(workbench: Workbench, name: str, episodes: Sequence[Episode]) -> float:
    """Of one baseline, after a warm-up on one task."""
    measure: Callable[..., object] = BASELINES[name].measure
    with TemporaryDirectory() as folder:
        measure(workbench, episodes[:1], Path(folder), lambda done, of: None)
        began = time.perf_counter()
        measure(workbench, episodes, Path(folder), lambda done, of: None)
    return time.perf_counter() - began


def processor() -> str:
    """As the system names it, and whether it has AVX-512."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = dict(line.split("\t", 1)[0:1] + [line.partition(":")[2].strip()] for line in lines if ":" in line)
    name = facts.get("model name") or platform.processor()
    return f"{name}, {'with' if 'avx512f' in facts.get('flags', '') else 'without'} AVX-512"


if __name__ == "__main__":
    main()
