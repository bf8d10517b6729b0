"""A meta-step of TinyLlama-1.1B's shape with random weights: time, memory, and the time of the mission's sweep.

    python scripts/engine/tinyllama_shape.py [KEY=VALUE …]    e.g. dataset=banking77 data_dir=… devices=cpu memory_gb=12

Prints one JSON object. Random weights cost what trained ones cost; the tokenizer is trained on the data set's texts,
so prompts are a little shorter than with the real one. Minutes on two cores; on a GPU also cohorts of 2 to 16 cells.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reptile_scaling.bench.bench import describe_machine
from reptile_scaling.bench.floor import floor_seconds, inner_step_products
from reptile_scaling.config import make_config, parse_override
from reptile_scaling.data.episodes import training_pool
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import training_loop
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import Corpus, Workbench, fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.model.devices import choose_devices, is_accelerator, peak_memory, synchronize

# https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0/blob/main/config.json
TINYLLAMA: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}  # fmt: skip
# The preset `mission`: 4 levels × 10,000 meta-steps of 4 tasks × 5 inner steps, one seed.
MISSION_TASK_STEPS = 4 * 10_000 * 4 * 5
COHORTS = (1, 2, 4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    try:
        print(json.dumps(measured(dict(map(parse_override, arguments.settings))), indent=2))
    except InputError as error:
        parser.error(str(error))


def measured(overrides: dict[str, Any]) -> dict[str, Any]:
    """What is printed, for these keys of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"dtype": "bfloat16", "cells_per_cohort": 1, **overrides, "model_name": folder}
        corpus = open_corpus(make_config(settings))
        write_model(Path(folder), corpus.dataset.texts)
        (device, *_) = choose_devices(make_config(settings).devices)
        cohorts = COHORTS if device != "cpu" else COHORTS[:1]
        rows = [measure(settings, corpus, device, cells) for cells in cohorts]
    for key in ("data_dir", "devices"):
        overrides.pop(key, None)
    return {"machine": describe_machine(), "device": device, "settings": overrides, "cohorts": rows}


def write_model(folder: Path, texts: tuple[str, ...]) -> None:
    """A folder in Hub layout: TinyLlama's shape, random weights in bf16, a byte-level BPE tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=TINYLLAMA["vocab_size"], special_tokens=["<s>"]))
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>").save_pretrained(folder)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(LlamaConfig(**TINYLLAMA)).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)


def measure(settings: dict[str, Any], corpus: Corpus, device: str, cells: int) -> dict[str, Any]:
    """One row: a meta-step of `cells` cells, all their inner steps."""
    config = make_config({**settings, "cells_per_cohort": cells})
    workbench = open_workbench(config, corpus, device)
    engine = workbench.engine
    episodes = training_pool(corpus.dataset, corpus.split, config, 0).episodes(config.tasks_per_step)
    theta = fresh_initialisation(workbench, 0).repeated(len(episodes))
    times = []
    for _ in range(3 if device != "cpu" else 2):
        began = time.perf_counter()
        adapt_in_groups(engine, TaskBatch(theta, episodes, training_loop(config)))
        synchronize(engine.backbone.device)
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[1:])
    packed = engine.prepare([episode.support for episode in episodes]).packed
    backbone = engine.backbone
    floor, rate = floor_seconds(backbone, inner_step_products(backbone, len(packed.token_ids), len(packed.lengths)))
    per_task_step = seconds / len(episodes) / config.k_inner
    return {
        "cells": cells,
        "tasks_per_step": len(episodes),
        "tasks_in_flight": engine.tasks_in_flight,
        "inner_steps": config.k_inner,
        "support_tokens_per_task": len(packed.token_ids) / len(episodes),
        "seconds_per_meta_step": seconds,
        "seconds_per_task_and_inner_step": per_task_step,
        "fraction_of_floor": floor * config.k_inner / seconds,
        "matrix_rate_tflops": rate / 1e12,
        "peak_memory_gb": peak_memory_gb(workbench),
        "predicted_memory_gb": workbench.peak_memory_bytes / 1e9,
        "memory": workbench.memory_sentence,
        "mission_sweep_hours": MISSION_TASK_STEPS * per_task_step / 3600,
    }


def peak_memory_gb(workbench: Workbench) -> float:
    """Of the whole process on the CPU, loading included; of the allocator on an accelerator."""
    device = workbench.engine.backbone.device
    if is_accelerator(device):
        return peak_memory(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
