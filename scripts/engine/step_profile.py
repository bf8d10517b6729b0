"""Where an inner step's time goes beside its matrix products.

    python scripts/engine/step_profile.py [KEY=VALUE …]      e.g. dataset=banking77 data_dir=… dtype=bfloat16

Prints one JSON object: milliseconds of one inner step of one lane, that is of 2 tasks on one thread, by kind of
operation, and the floor at one thread's rate. What lanes cost each other is not in it. A minute. The profiler itself
costs a few percent.
"""

import argparse
import json
import re
from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from reptile_scaling.bench.bench import describe_machine
from reptile_scaling.bench.floor import floor_seconds, inner_step_products
from reptile_scaling.config import make_config, parse_override
from reptile_scaling.data.episodes import training_pool
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import training_loop
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import fresh_initialisation, open_corpus, open_workbench

N_TASKS, N_STEPS = 2, 4
KINDS = {
    "matrix products: frozen layers and the low-rank path": r"^aten::(mm|addmm_?)$",
    "matrix products: attention": r"^aten::bmm$",
    "softmax": r"softmax",
    "SwiGLU, norms, rotary embedding, residuals": r"^aten::(mul_?|add_?|silu(_backward)?|neg|mean|rsqrt|pow|sub)$|Norm",
    "moving rows: attention blocks, gradients to memory order": r"^aten::(copy_|index|_?index_put_(impl_)?|cat|clone)$"
    r"|^aten::(contiguous|index_copy_?|fill_|zero_)$",
    "optimiser": r"adam",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    try:
        print(json.dumps(profiled(dict(map(parse_override, arguments.settings))), indent=2))
    except InputError as error:
        parser.error(str(error))


def profiled(settings: dict[str, Any]) -> dict[str, Any]:
    """What is printed, for these keys of a configuration."""
    torch.set_num_threads(1)
    config = make_config(settings)
    corpus = open_corpus(config)
    workbench = open_workbench(config, corpus, "cpu")
    backbone = workbench.engine.backbone
    episodes = training_pool(corpus.dataset, corpus.split, config, 0).episodes(N_TASKS)
    theta = fresh_initialisation(workbench, 0).repeated(N_TASKS)
    loop = replace(training_loop(config), steps=N_STEPS)
    adapt_in_groups(workbench.engine, TaskBatch(theta, episodes, loop))
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        adapt_in_groups(workbench.engine, TaskBatch(theta, episodes, loop))
    milliseconds: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():
        kind = next((kind for kind, names in KINDS.items() if re.search(names, event.key)), "the rest: calls and views")
        milliseconds[kind] += event.self_cpu_time_total / 1e3 / N_STEPS
    packed = workbench.engine.prepare([episode.support for episode in episodes]).packed
    products = inner_step_products(backbone, len(packed.token_ids), len(packed.lengths))
    floor, rate = floor_seconds(backbone, products)
    settings.pop("data_dir", None)  # a path of one machine says nothing to a reader
    return {
        "machine": describe_machine(),
        "settings": settings,
        "tasks": N_TASKS,
        "threads": 1,
        "tokens": len(packed.token_ids),
        "floor_milliseconds": round(floor * 1e3),
        "matrix_rate_gflops": round(rate / 1e9),
        "milliseconds": {kind: round(value) for kind, value in sorted(milliseconds.items(), key=lambda kv: -kv[1])},
    }


if __name__ == "__main__":
    main()
