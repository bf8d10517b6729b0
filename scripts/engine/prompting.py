"""What the two prompting baselines take on the demo's test tasks: seconds of all tasks, and a task.

python scripts/engine/prompting.py [--dtype float32] [--some 6]
In-context tasks share nothing, so a few of them tell the pace; zero-shot shares utterances, so it is run on all, and on
the same few each by itself, which tells what sharing is worth. The floor is the frozen products of the tokens that went
through the model at the rate of plain products of these shapes. Only idle machines tell.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from reptile_scaling.baselines import BASELINES
from reptile_scaling.bench.bench import describe_machine
from reptile_scaling.bench.floor import Product, matrix_rate
from reptile_scaling.config import load_config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.lab.provenance import software_versions
from reptile_scaling.learning.evaluation import test_episodes
from reptile_scaling.learning.workbench import Workbench, open_corpus, open_workbench
from reptile_scaling.model.blocks import linear_shape

ROWS = 1024
"""Tokens of the products that tell the rate."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--some", type=int, default=6)
    given = parser.parse_args()
    config = load_config("demo", (f"dtype={given.dtype}", "devices=[cpu]"))
    workbench = open_workbench(config, open_corpus(config), "cpu")
    episodes = test_episodes(workbench)
    some = episodes[: given.some]
    shared, tokens_shared = measured(workbench, "zero_shot_labels", episodes)
    by_task = sum(measured(workbench, "zero_shot_labels", [one])[0] for one in some) * len(episodes) / len(some)
    in_context, tokens = measured(workbench, "in_context", some)
    row = {
        "machine": describe_machine(),
        "dtype": str(workbench.engine.backbone.dtype),
        "zero_shot_labels": shared,
        "zero_shot_fraction_of_floor": floor_of(workbench, tokens_shared) / shared,
        "zero_shot_labels_task_by_task": by_task,
        "sharing": by_task / shared,
        "in_context": in_context * len(episodes) / len(some),
        "in_context_fraction_of_floor": floor_of(workbench, tokens) / in_context,
        "n_tasks": len(episodes),
        "versions": software_versions(),
    }
    print(json.dumps(row))


def measured(workbench: Workbench, name: str, episodes: Sequence[Episode]) -> tuple[float, int]:
    """Seconds of one baseline after a warm-up on one task, and the tokens that went through the model's first block."""
    measure: Callable[..., object] = BASELINES[name].measure
    rows: list[int] = []
    block = workbench.engine.backbone.blocks[0]
    first = next(module for module in block.modules() if linear_shape(module))
    with TemporaryDirectory() as folder:
        measure(workbench, episodes[:1], Path(folder), lambda done, of: None)
        hook = first.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[:-1].numel()))
        began = time.perf_counter()
        measure(workbench, episodes, Path(folder), lambda done, of: None)
        taken = time.perf_counter() - began
    hook.remove()
    return taken, sum(rows)


def floor_of(workbench: Workbench, tokens: int) -> float:
    """Seconds that the frozen products of so many tokens take."""
    backbone = workbench.engine.backbone
    shapes = [shape for block in backbone.blocks for module in block.modules() if (shape := linear_shape(module))]
    products = [Product(ROWS, d_in, d_out, times=1) for d_out, d_in in shapes]
    rate = matrix_rate(products, backbone.dtype, backbone.device)
    return sum(product.flops for product in products) / ROWS * tokens / rate


if __name__ == "__main__":
    main()
