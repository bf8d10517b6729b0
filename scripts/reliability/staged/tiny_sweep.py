"""A sweep of six cells that takes a second: what the scripts beside it cut, flip and starve."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from reptile_scaling.config import Config, make_config
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory

VERBS = ("open", "close", "find", "move", "wash", "paint", "lift", "drop", "lock", "scan", "fold", "ship")


def tiny_config(folder: Path) -> Config:
    """Six cells of four meta-steps on a model of two layers, both of which are written to the folder."""
    rows = [(f"{verb} the thing {i}", f"{verb}_it") for verb in VERBS for i in range(8)]
    (folder / "toy.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator([text for text, _ in rows], trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=32, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return make_config(
        {
            "model_name": str(folder / "model"), "dataset": str(folder / "toy.csv"), "dtype": "float32",
            "class_split": {"train": 0.5, "validation": 0.25, "seed": 0}, "baselines": ["no_meta"],
            "n_tasks_list": [2, 4, 8], "seeds": [0, 1], "n_way": 3, "k_support": 2, "k_query": 2,
            "num_meta_test_tasks": 3, "num_validation_tasks": 2, "num_meta_steps": 4, "eval_interval": 2,
            "meta_batch_size": 2, "meta_lr": 0.5, "k_inner": 2, "inner_lr": 0.01, "lora_r": 2, "lora_layers": "top-1",
            "template": "{text}", "devices": ["cpu"], "cells_per_cohort": 4, "curve_steps": [1, 2],
        }
    )  # fmt: skip


def sweep(config: Config, folder: Path) -> RunDirectory:
    """The sweep, or what is left of it, as `run` does it."""
    run = RunDirectory(folder)
    plan = plan_sweep(config, run)
    with run.locked():
        run_sweep(plan, run)
    return run


def largest_difference(run: RunDirectory, other: RunDirectory) -> float:
    """Over every loss and accuracy of every test task of every cell, and of the baselines; infinite where one lacks."""
    ours, theirs = _figures(run), _figures(other)
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")


def _figures(run: RunDirectory) -> np.ndarray:
    tasks = [list(asdict(task).values()) for cell in run.cells() for task in run.cell(cell).read_test_tasks()]
    rows = [list(asdict(row).values())[:3] for cell in run.cells() for row in run.cell(cell).read_train_stats()]
    baselines = [loss for b in run.read_baselines().values() for loss in b.task_losses or []]
    assert len(run.results()) == len(run.cells()), "a cell has no result"
    return np.array([*np.ravel(tasks), *np.ravel(rows), *baselines], dtype=float)
