"""How fast the prefix cache fills, beside the floor of its matrix products.

    python scripts/engine_cache.py [KEY=VALUE …]      e.g. dataset=banking77 data_dir=… lora_layers=top-4 dtype=float32

Prints one JSON object. Under a minute for 400 utterances on two cores.
"""

import json
import statistics
import sys
import time

import numpy as np

from reptile_scaling.bench.bench import describe_machine
from reptile_scaling.bench.floor import Product, matrix_rate
from reptile_scaling.config import make_config, parse_override
from reptile_scaling.experiment import open_corpus, open_experiment
from reptile_scaling.model.blocks import linear_shape
from reptile_scaling.model.prefix_cache import TOKENS_PER_FORWARD, PrefixCache

N_UTTERANCES, REPEATS = 400, 3


def main() -> None:
    settings = dict(map(parse_override, sys.argv[1:]))
    config = make_config({"lora_layers": "top-4", **settings})
    experiment = open_experiment(config, open_corpus(config), "cpu")
    backbone, ids = experiment.encoder.backbone, experiment.encoder.token_ids
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
    products = [Product(TOKENS_PER_FORWARD, d_in, d_out, needs_input_gradient=False) for d_out, d_in in shapes]
    rate = matrix_rate(products, backbone.dtype, backbone.device)
    floor = sum(p.flops for p in products) / TOKENS_PER_FORWARD * n_tokens / rate
    for key in ("data_dir",):
        settings.pop(key, None)
    found = {
        "machine": describe_machine(),
        "settings": settings,
        "tokens": n_tokens,
        "tokens_per_s": n_tokens / statistics.median(seconds),
        "fraction_of_floor": floor / statistics.median(seconds),
        "matrix_rate_gflops": rate / 1e9,
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
