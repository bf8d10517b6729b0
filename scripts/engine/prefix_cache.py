"""How fast the prefix cache fills, beside the floor of its matrix products.

    python scripts/engine/prefix_cache.py [KEY=VALUE …]      e.g. dataset=banking77 data_dir=… dtype=float32

Prints one JSON object. Under a minute for 400 utterances on two cores.
"""

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from reptile_scaling.bench.bench import describe_machine
from reptile_scaling.bench.floor import Product, matrix_rate
from reptile_scaling.config import make_config, parse_override
from reptile_scaling.errors import InputError
from reptile_scaling.learning.workbench import open_corpus, open_workbench
from reptile_scaling.model.blocks import linear_shape
from reptile_scaling.model.prefix_cache import TOKENS_PER_FORWARD, PrefixCache

N_UTTERANCES, REPEATS = 400, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    try:
        print(json.dumps(measured(dict(map(parse_override, arguments.settings))), indent=2))
    except InputError as error:
        parser.error(str(error))


def measured(settings: dict[str, Any]) -> dict[str, Any]:
    """What is printed, for these keys of a configuration."""
    config = make_config({"lora_layers": "top-4", **settings})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    backbone, ids = workbench.engine.backbone, workbench.engine.token_ids
    chosen = np.random.default_rng(0).choice(len(ids), N_UTTERANCES, replace=False)
    n_tokens = sum(len(ids[utterance]) for utterance in chosen)
    seconds = []
    for _ in range(REPEATS):
        cache = PrefixCache(backbone, ids)
        began = time.perf_counter()
        cache.fill(chosen)
        seconds.append(time.perf_counter() - began)
    below = backbone.blocks[: backbone.first_adapted]
    shapes = [shape for block in below for module in block.modules() if (shape := linear_shape(module))]
    products = [Product(TOKENS_PER_FORWARD, d_in, d_out, times=1) for d_out, d_in in shapes]
    rate = matrix_rate(products, backbone.dtype, backbone.device)
    floor = sum(p.flops for p in products) / TOKENS_PER_FORWARD * n_tokens / rate
    settings.pop("data_dir", None)  # a path of one machine says nothing to a reader
    return {
        "machine": describe_machine(),
        "settings": settings,
        "tokens": n_tokens,
        "tokens_per_s": n_tokens / statistics.median(seconds),
        "fraction_of_floor": floor / statistics.median(seconds),
        "matrix_rate_gflops": rate / 1e9,
    }


if __name__ == "__main__":
    main()
