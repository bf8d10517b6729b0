"""A meta-trained initialisation, and support sets of the toy classes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reptile_scaling.config import make_config
from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell


@pytest.fixture(scope="package")
def adapter(toy_settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initialisation of one finished cell, with its LoRA moved away from zero."""
    run = RunDirectory(tmp_path_factory.mktemp("cell") / "run")
    settings = {**toy_settings, "n_tasks_list": [2], "seeds": [0], "k_inner_test": 3}
    run_sweep(plan_sweep(make_config(settings), run), run)
    return run.cell(Cell(2, 0)).adapter_folder


@pytest.fixture(scope="package")
def support_of(toy_dataset: IntentDataset) -> Callable[[tuple[int, ...], tuple[int, ...]], IntentDataset]:
    """The first so many utterances of some classes."""

    def make(classes: tuple[int, ...], shots: tuple[int, ...]) -> IntentDataset:
        rows = [
            (toy_dataset.texts[u], toy_dataset.class_names[c])
            for c, n in zip(classes, shots, strict=True)
            for u in toy_dataset.utterances_by_class[c][:n]
        ]
        return make_dataset("support", rows)

    return make
