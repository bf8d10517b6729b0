"""Sweeps over something else than N_tasks."""

from pathlib import Path

import pandas as pd
import pytest

from reptile_scaling.config import make_config
from reptile_scaling.data.episodes import training_pool
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.learning.workbench import open_corpus
from reptile_scaling.report import write_report
from reptile_scaling.runs.directory import RunDirectory
from toy_models import tiny_model

pytestmark = pytest.mark.endurance


def swept(settings: dict[str, object], out: Path) -> RunDirectory:
    run = RunDirectory(out)
    run_sweep(plan_sweep(make_config(settings), run), run)
    return run


@pytest.fixture
def one_n(toy_settings) -> dict[str, object]:
    return {**toy_settings, "n_tasks_list": [4], "seeds": [0, 1], "num_meta_steps": 2, "num_meta_test_tasks": 4}


@pytest.mark.parametrize(
    "axis, values, settings_of_cells",
    [
        ("n_classes", [6, 3, 4], "n_classes"),
        ("k_support", [1, 3], "k_support"),
        ("k_inner", [1, 2, 4], "k_inner"),
        ("lora_r", [2, 8], "lora_r"),
    ],
)
def test_levels_differ_in_the_axis_alone(axis: str, values: list[int], settings_of_cells: str, one_n, tmp_path) -> None:
    run = swept({**one_n, "axis": axis, "axis_values": values}, tmp_path)
    assert [(r.x, r.seed, r.n_tasks) for r in run.results()] == [
        (float(v), s, 4) for v in sorted(values) for s in (0, 1)
    ]
    configs = [pd.read_json(run.cell(cell).path / "config.json", typ="series") for cell in run.cells()]
    assert [c[settings_of_cells] for c in configs] == [v for v in sorted(values) for _ in (0, 1)]
    law = write_report(run)
    assert law.levels.x.tolist() == sorted(map(float, values))
    page = run.report_path.read_text()
    assert "N = 4" not in page
    table = pd.read_csv(run.path / "scaling_law_results.csv")
    assert table.axis.unique().tolist() == [axis] and sorted(table.axis_value.unique()) == sorted(values)


def test_a_level_of_another_axis_equals_the_cell_trained_alone(one_n, tmp_path) -> None:
    over_steps = swept({**one_n, "axis": "k_inner", "axis_values": [1, 3]}, tmp_path / "axis")
    alone = swept({**one_n, "k_inner": 3}, tmp_path / "alone")
    for a, b in zip(over_steps.results()[2:], alone.results(), strict=True):
        assert a.meta_test_loss == pytest.approx(b.meta_test_loss, rel=1e-4)


def test_models_stand_at_their_size(one_n, tokenizer, tmp_path) -> None:
    folders = []
    for name, width in (("wide", 64), ("narrow", 32)):
        folder = tmp_path / name
        tiny_model("llama", len(tokenizer), width=width).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(str(folder))
    run = swept({**one_n, "axis": "model_name", "axis_values": folders}, tmp_path / "run")
    sizes = [tiny_model("llama", len(tokenizer), width=width).num_parameters() for width in (64, 32)]
    assert [r.x for r in run.results()] == [float(size) for size in sizes for _ in (0, 1)]
    assert write_report(run).levels.x.tolist() == sorted(map(float, sizes))


def test_fewer_classes_are_part_of_more(toy_settings) -> None:
    corpus = open_corpus(make_config(toy_settings))
    chosen = {
        n: set(training_pool(corpus.dataset, corpus.split, make_config({**toy_settings, "n_classes": n}), 1).classes)
        for n in (3, 4, 6)
    }
    assert chosen[3] < chosen[4] < chosen[6] == set(corpus.split.train)
    other = training_pool(corpus.dataset, corpus.split, make_config({**toy_settings, "n_classes": 3}), 2)
    assert set(other.classes) != chosen[3]


def test_a_level_can_be_added_to_a_finished_run(one_n, tmp_path) -> None:
    swept({**one_n, "axis": "n_classes", "axis_values": [3, 6]}, tmp_path)
    first = RunDirectory(tmp_path).results()
    run = swept({**one_n, "axis": "n_classes", "axis_values": [3, 4, 6]}, tmp_path)
    assert [r for r in run.results() if r.axis_value != 4] == first
    assert len(run.results()) == 6


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"axis": "n_shots", "axis_values": [1]}, "axis = 'n_shots' is unknown: use one of n_tasks"),
        ({"axis_values": [1, 2]}, "axis_values are given, but axis is n_tasks"),
        ({"axis": "k_inner"}, "axis_values = .* must list the levels of k_inner"),
        ({"axis": "k_inner", "axis_values": [2, 2]}, "once each"),
        ({"axis": "k_inner", "axis_values": [2], "n_tasks_list": [2, 4]}, "n_tasks_list has 2 levels, but axis"),
        ({"axis": "n_classes", "axis_values": [3, 7]}, "n_classes = 7 is not between n_way = 3 and the 6 training"),
        ({"axis": "k_support", "axis_values": [2, 40]}, "k_support \\+ k_query = 43"),
        ({"axis": "model_name", "axis_values": ["./nowhere"]}, "model_name './nowhere' does not exist"),
        ({"axis": "lora_r", "axis_values": ["many"]}, "lora_r = 'many' cannot work"),
    ],
)
def test_levels_that_cannot_work_are_refused(settings, complaint: str, one_n, tmp_path) -> None:
    with pytest.raises(InputError, match=complaint):
        plan_sweep(make_config({**one_n, **settings}), RunDirectory(tmp_path))
