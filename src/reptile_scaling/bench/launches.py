"""How many kernels an inner step launches on an accelerator, and whether the host waits: counted on the pretend device.

    python -m reptile_scaling.bench.launches        prints one JSON object; ten seconds

A small Llama with random weights: launches depend on the number of layers, of tasks and of cells, not on widths.
"""

import copy
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import torch

LAYERS = 4
WORKS = ((1, 1), (4, 1), (16, 1), (4, 4), (4, 16))
"""(tasks of a cell, cells)."""
MORE_STEPS = 2


def count_launches() -> dict[str, Any]:
    """`rows` by work and by adapted layers, and what sequential PEFT launches; from a process of its own."""
    done = subprocess.run([sys.executable, "-m", __spec__.name], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Prints the rows; `os._exit`, since the device's hooks outlive the interpreter."""
    from reptile_scaling.bench.pretend_device import PretendDevice, register

    register()
    torch.set_num_threads(1)
    model = small_llama()
    with PretendDevice():
        rows = [_row(model, top, tasks, cells) for top in (None, 1) for tasks, cells in WORKS]
        peer = _peer_launches(model)
    found = {"layers": LAYERS, "rows": rows, "sequential_peft_launches_per_task_and_inner_step": peer}
    print(json.dumps(found), flush=True)
    os._exit(0)


def small_llama() -> Any:
    """Random weights, the same each time."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    sizes = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)


def _row(model: Any, top: int | None, tasks: int, cells: int) -> dict[str, Any]:
    """Counts of one inner step: those of a loop of 1 + MORE_STEPS less those of a loop of one."""
    from reptile_scaling.bench.pretend_device import counts, move

    adapt_once = work_on(move(copy.deepcopy(model)), top, tasks, cells)
    adapt_once(1)  # fills the prefix cache
    asked, found = [], []
    for steps in (1, 1 + MORE_STEPS):
        counts.clear()
        adapt_once(steps)
        asked.append(sum(counts.launches.values()))
        found.append((sum(counts.waits.values()), sum(counts.copies.values())))
    per_step = [(b - a) / MORE_STEPS for a, b in zip(found[0], found[1], strict=True)]
    return {
        "adapted_layers": top or LAYERS,
        "tasks_per_cell": tasks,
        "cells": cells,
        "launches_per_inner_step": (asked[1] - asked[0]) / MORE_STEPS,
        "waits_per_inner_step": per_step[0],
        "copies_per_inner_step": per_step[1],
        "launches_per_meta_step_beside": asked[0] - (asked[1] - asked[0]) / MORE_STEPS,
    }


def _peer_launches(model: Any) -> int:
    """Of one inner step of one task by PEFT, LoRA on all layers, padded to its batch, torch's fused Adam."""
    from peft import LoraConfig, TaskType, get_peft_model

    from reptile_scaling.bench.pretend_device import counts, device, move

    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type=TaskType.CAUSAL_LM)
    peer: Any = move(get_peft_model(copy.deepcopy(model), lora))
    weights = [p.requires_grad_() for name, p in peer.named_parameters() if "lora" in name]
    ids, mask = (torch.ones(25, 20, dtype=torch.long).to(device()) for _ in range(2))
    optimizer = torch.optim.Adam(weights, lr=1e-3, fused=True)
    for _ in range(2):  # the first step makes the optimiser's state
        counts.clear()
        hidden = peer.get_base_model().model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        hidden[:, -1].float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return sum(counts.launches.values())


def work_on(model: Any, top: int | None, tasks: int, cells: int) -> Any:
    """`adapt_once(steps)` runs the inner loop of so many tasks of so many cells and gives what came of it."""
    from reptile_scaling.data.episodes import Episode
    from reptile_scaling.learning.inner_loop import adapt_in_groups
    from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
    from reptile_scaling.model.adapters import Adapters
    from reptile_scaling.model.backbone import Backbone, LoraShape
    from reptile_scaling.model.engine import Engine
    from reptile_scaling.model.heads import fresh_head
    from reptile_scaling.model.loading import LanguageModel
    from reptile_scaling.model.prefix_cache import PrefixCache

    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 500, rng.integers(6, 20)).tolist() for _ in range(600)]
    backbone = Backbone(LanguageModel(model, None, "small"), LoraShape(8, 16.0, top))
    engine = Engine(backbone, ids, PrefixCache(backbone, ids, 10**9) if backbone.first_adapted else None)
    engine.tasks_in_flight = tasks * cells
    theta = Adapters(
        backbone.fresh_lora(torch.Generator().manual_seed(0)) | fresh_head(5, backbone.width, backbone.device)
    ).repeated(tasks * cells)
    episodes = [
        Episode(tuple(range(5)), rng.choice(600, (5, 5), replace=False), rng.choice(600, (5, 15), replace=False))
        for _ in range(tasks * cells)
    ]
    owners = [cell for cell in range(cells) for _ in range(tasks)]

    def adapt_once(steps: int, optimizer: str = "adam") -> Any:
        rate = {"adam": 1e-3, "sgd": 0.1}[optimizer]
        loop = InnerLoop(steps, rate, optimizer)
        return adapt_in_groups(engine, TaskBatch(theta, episodes, loop, owners=owners))

    return adapt_once


if __name__ == "__main__":
    main()
