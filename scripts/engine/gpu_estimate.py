"""What an inner step of TinyLlama's shape would take on a GPU: launches × seconds of each, or FLOPs ÷ rate.

    python scripts/engine/gpu_estimate.py [--rate TFLOPS …]

An estimate, no measurement: launches are counted on the pretend device (results/engine/launches.json), everything else
is an assumption that the printed object names. Seconds.
"""

import argparse
import json
from pathlib import Path
from typing import Any

LAUNCHES = Path(__file__).parents[2] / "results" / "engine" / "launches.json"
LAYERS, RANK = 22, 8
WIDTH, INNER, KEYS = 2048, 5632, 256
LINEARS = ((WIDTH, WIDTH), (WIDTH, KEYS), (WIDTH, KEYS), (WIDTH, WIDTH), *((WIDTH, INNER),) * 3)
"""(d_in, d_out) of a block, TinyLlama-1.1B's; the last three are its MLP's, whichever way round."""
TOKENS_PER_TASK = 335
"""25 utterances of Banking77: results/engine/tinyllama_cpu.json."""
SECONDS_PER_LAUNCH = 6e-6
CASTS_PER_LAYER = 28
"""Of A and B to bfloat16 and of their gradients back, two for each of the seven layers' A and B."""
PEER_PADDING = 1.25
MISSION_TASK_STEPS = 4 * 10_000 * 4 * 5
TASKS_PER_CELL = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rate", metavar="TFLOPS", type=float, nargs="*", default=[200.0, 400.0, 600.0], help="assumed"
    )
    counted = json.loads(LAUNCHES.read_text(encoding="utf-8"))
    rows = [estimate(counted, rate, cells) for rate in parser.parse_args().rate for cells in (1, 4, 16)]
    assumed = {
        "seconds_per_launch": SECONDS_PER_LAUNCH,
        "tokens_per_task": TOKENS_PER_TASK,
        "padding_of_peft": PEER_PADDING,
        "launches_and_products": "overlap; Python keeps up with the device",
    }
    print(json.dumps({"measured": False, "assumed": assumed, "rows": rows}, indent=1))


def estimate(counted: dict[str, Any], rate_tflops: float, cells: int) -> dict[str, float]:
    """One row."""
    per_step = {row["adapted_layers"]: row["launches_per_inner_step"] for row in counted["rows"] if row["cells"] == 4}
    per_layer = (per_step[counted["layers"]] - per_step[1]) / (counted["layers"] - 1)
    launches = per_step[1] - per_layer + LAYERS * (per_layer + CASTS_PER_LAYER)
    peer_launches = counted["sequential_peft_launches_per_task_and_inner_step"] * LAYERS / counted["layers"]
    frozen = LAYERS * sum(4 * d_in * d_out for d_in, d_out in LINEARS)
    low_rank = LAYERS * sum(6 * RANK * (d_in + d_out) for d_in, d_out in LINEARS)
    flops_per_task = TOKENS_PER_TASK * (frozen + low_rank)
    tasks = TASKS_PER_CELL * cells
    step = max(launches * SECONDS_PER_LAUNCH, tasks * flops_per_task / rate_tflops / 1e12)
    peer = max(peer_launches * SECONDS_PER_LAUNCH, PEER_PADDING * flops_per_task / rate_tflops / 1e12)
    return {
        "rate_tflops": rate_tflops,
        "cells": cells,
        "launches": round(launches),
        "inner_step_seconds": round(step, 4),
        "seconds_per_task_and_inner_step": round(step / tasks, 5),
        "peft_seconds_per_task_and_inner_step": round(peer, 5),
        "ratio_vs_sequential_peft": round(peer * tasks / step, 1),
        "mission_training_hours": round(MISSION_TASK_STEPS * step / tasks / 3600, 2),
    }


if __name__ == "__main__":
    main()
