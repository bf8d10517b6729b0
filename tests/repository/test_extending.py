"""The examples of docs/extending.md, run as they stand."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from reptile_scaling.api import run_experiment
from reptile_scaling.baselines import BASELINES
from reptile_scaling.config import make_config
from reptile_scaling.data.readers import READERS
from reptile_scaling.errors import InputError
from reptile_scaling.lab.executors import EXECUTORS
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.laws import LossTable, fit_law
from reptile_scaling.laws.forms import FORMS
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.workbench import open_corpus
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.heads import HEADS
from reptile_scaling.runs.directory import RunDirectory

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
DICTS = (READERS, ALGORITHMS, HEADS, BASELINES, EXECUTORS, FORMS)


@pytest.fixture
def names() -> Iterator[dict[str, object]]:
    """What the page's code defines; the dicts are put back afterwards."""
    before = [dict(known) for known in DICTS]
    defined: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(block, defined)
    yield defined
    for known, entries in zip(DICTS, before, strict=True):
        known.clear()
        known.update(entries)


@pytest.fixture
def lines_folder(toy_rows, tmp_path) -> Path:
    folder = tmp_path / "lines"
    folder.mkdir()
    for label in {label for _, label in toy_rows}:
        texts = [text for text, own in toy_rows if own == label]
        (folder / f"{label}.txt").write_text("\n".join([*texts, "", texts[0]]) + "\n")
    return folder


def test_page_adds_one_entry_to_each_dict(names) -> None:
    assert {"lines"} <= READERS.keys() and {"clipped_reptile"} <= ALGORITHMS.keys()
    assert {"direction"} <= HEADS.keys() and {"ridge_probe"} <= BASELINES.keys()
    assert {"fresh"} <= EXECUTORS.keys() and {"root_linear"} <= FORMS.keys()


def test_data_set_is_read_and_tidied(names, lines_folder, toy_settings, toy_dataset) -> None:
    config = make_config({**toy_settings, "dataset": "lines", "data_dir": str(lines_folder)})
    dataset = open_corpus(config).dataset
    assert dataset.class_names == toy_dataset.class_names
    assert sorted(dataset.texts) == sorted(toy_dataset.texts)  # without the blank and the repeated line of each file
    with pytest.raises(InputError, match="'lines' is read from a folder of text files: set data_dir"):
        open_corpus(make_config({**toy_settings, "dataset": "lines"}))


def test_algorithm_shortens_long_ways(names) -> None:
    gradients = Adapters({"a": torch.tensor([[3.0], [0.3]]), "b": torch.tensor([[4.0], [0.4]])})
    clipped = names["clipped"](gradients)
    # Task 0 goes 5 = √(3² + 4²) far and is cut to 1, task 1 goes 0.5 and is left.
    torch.testing.assert_close(clipped.tensors["a"], torch.tensor([[0.6], [0.3]]))
    torch.testing.assert_close(clipped.tensors["b"], torch.tensor([[0.8], [0.4]]))


def test_head_points_from_the_mean_of_the_task_to_the_class(names) -> None:
    features = torch.tensor([[[5.0, 0.0], [7.0, 0.0], [1.0, 0.0], [3.0, 0.0]]])
    head = HEADS["direction"].from_support(features, torch.tensor([0, 0, 1, 1]), 2)
    # Class means 6 and 2, mean of the task 4: directions +1 and −1 along the first axis.
    torch.testing.assert_close(head["head.weight"], torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))
    assert (head["head.bias"] == 0).all()


def test_all_four_run_together(names, lines_folder, toy_settings, tmp_path) -> None:
    ours = {"dataset": "lines", "data_dir": str(lines_folder), "algorithm": "clipped_reptile", "head": "direction"}
    grid = {"n_tasks_list": [2, 4], "seeds": [0]}
    workbench = run_experiment({**toy_settings, "baselines": None, **ours, **grid}, tmp_path / "out")
    assert workbench.failures == {}
    assert len(workbench.results) == 2
    assert 0 <= workbench.baselines.accuracy["ridge_probe"] <= 1
    assert (workbench.config.algorithm, workbench.config.head) == ("clipped_reptile", "direction")


def test_figure_has_a_mark_and_a_row_for_each_cell(names, committed_run, tmp_path) -> None:
    run = RunDirectory(committed_run)
    chart = names["draw_speed"](run)
    assert len(chart.rows) == len(run.results()) == 24
    assert chart.inline().count('class="mark"') == 24
    chart.save(tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 10_000


@pytest.mark.parametrize("key, value", [("algorithm", "clipped_reptile"), ("head", "direction")])
def test_name_that_was_not_added_is_refused(key: str, value: str, toy_settings, tmp_path) -> None:
    with pytest.raises(InputError, match=f"{key} = '{value}' is unknown: use "):
        plan_sweep(make_config({**toy_settings, key: value}), RunDirectory(tmp_path))


def test_executor_makes_a_worker_for_every_job(names, toy_settings, tmp_path) -> None:
    experiment = run_experiment(
        {**toy_settings, "executor": "fresh", "n_tasks_list": [2, 4], "seeds": [0], "cells_per_cohort": 1},
        tmp_path / "out",
    )
    assert experiment.failures == {} and len(experiment.results) == 2
    assert {"fresh_0", "fresh_1"} <= {worker.name for worker in RunDirectory(tmp_path / "out").read_workers()}


def test_law_form_finds_its_own_parameters(names) -> None:
    x = np.array([1.0, 4.0, 9.0, 25.0, 64.0])
    table = LossTable(x, 5 - 0.25 * np.sqrt(x), ("0",) * 5)
    found = fit_law(table, n_bootstrap=20).candidates["root_linear"].parameters
    assert found == pytest.approx({"a": 5.0, "b": 0.25}, rel=1e-6)
