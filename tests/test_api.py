"""The Python API: a run as tables and a law, the same as the command line writes."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from reptile_scaling import api
from reptile_scaling.api import RunRecord, load_experiment, run_experiment
from reptile_scaling.baselines import BASELINES
from reptile_scaling.cli import run_config
from reptile_scaling.config import make_config
from reptile_scaling.errors import InputError
from reptile_scaling.interruption import StopRequested
from reptile_scaling.runs.records import CellResult

QUICKSTART = Path(__file__).parents[1] / "docs" / "quickstart.md"


@pytest.fixture(scope="module")
def small(toy_settings) -> dict[str, object]:
    return {**toy_settings, "n_tasks_list": [1, 2, 4], "curve_steps": [1, 3], "baselines": None}


@pytest.fixture(scope="module")
def experiment(small, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run_experiment(small, tmp_path_factory.mktemp("run") / "out")


def test_results_have_a_row_per_cell_and_the_columns_of_the_file(experiment) -> None:
    assert list(experiment.results.columns) == [field.name for field in fields(CellResult)]
    cells = list(experiment.results[["n_tasks", "seed"]].itertuples(index=False, name=None))
    assert cells == [(1, 0), (1, 1), (2, 0), (2, 1), (4, 0), (4, 1)]


def test_law_and_sentences_are_those_of_the_written_files(experiment) -> None:
    written = json.loads((experiment.folder / "power_law_fit.json").read_text())
    assert experiment.law.as_json() == written
    summary = json.loads((experiment.folder / "summary_report.json").read_text())
    assert experiment.sentence == summary["verdict_sentence"]
    assert experiment.standing == summary["standing_sentence"]


def test_law_predicts(experiment) -> None:
    prediction = experiment.law.predict(np.array([2, 8]))
    assert np.isfinite(prediction.value).all()


def test_baselines_are_numbers_by_name(experiment) -> None:
    assert sorted(experiment.baselines.index) == sorted(BASELINES)
    assert experiment.baselines.accuracy.between(0, 1).all()
    assert np.isnan(experiment.baselines.loss["zero_step"])  # it has none, and a table of numbers says so with NaN


def test_learning_curves_have_every_evaluation_of_every_cell(experiment) -> None:
    curves = experiment.learning_curves
    assert len(curves) == 6 * 4  # 6 cells; 4 meta-steps, evaluated before the first, at 1, and every 2
    assert set(curves.meta_step) == {0, 1, 2, 4}
    assert {"n_tasks", "seed", "validation_loss", "validation_accuracy"} <= set(curves.columns)


def test_nothing_failed(experiment) -> None:
    assert experiment.failures == {}


def test_grid_grows_in_the_same_folder(experiment, small, tmp_path, capsys) -> None:
    folder = shutil.copytree(experiment.folder, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("final_result.json")}
    grown = run_experiment({**small, "n_tasks_list": [1, 2, 4, 8]}, folder)
    assert len(grown.results) == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    printed = capsys.readouterr().out
    assert "8 cells, 6 done" in printed and "run the same command again to resume" in printed
    assert load_experiment(str(folder)).results.equals(grown.results)


def test_folder_without_a_run_is_an_input_error(tmp_path) -> None:
    with pytest.raises(InputError, match="holds no experiment: give the --out folder of a run"):
        load_experiment(tmp_path / "nowhere")


def test_setting_that_cannot_work_is_an_input_error(small, tmp_path) -> None:
    with pytest.raises(InputError, match="unknown key 'n_wey': did you mean 'n_way'"):
        run_experiment({**small, "n_wey": 3}, tmp_path / "out")


def test_run_of_which_nothing_is_left_says_why(small, tmp_path, capsys) -> None:
    ruinous = {"inner_lr": 1000, "inner_optimizer": "sgd", "lora_alpha": 1e30, "n_tasks_list": [2], "seeds": [0]}
    record = run_experiment({**small, **ruinous}, tmp_path / "out")
    assert record.results.empty and set(record.learning_curves.meta_step) == {0, 1}
    assert "stopped being finite" in record.failures["ntasks_2_seed_0"]
    assert "ntasks_2_seed_0 failed: parameters stopped being finite" in capsys.readouterr().out
    for ask in (lambda: record.law, lambda: record.sentence, lambda: record.standing):
        with pytest.raises(InputError, match="holds no finished cell.*look at `failures`"):
            ask()


@pytest.mark.parametrize("interruption, said", [(StopRequested, "is saved in"), (KeyboardInterrupt, "Checkpoints are")])
def test_interruption_says_how_to_go_on_and_is_passed_on(
    interruption: type[KeyboardInterrupt], said: str, small, tmp_path, monkeypatch, capsys
) -> None:
    def interrupted(*_: object) -> None:
        raise interruption

    monkeypatch.setattr(api, "run_sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(small, tmp_path / "out")
    assert said in capsys.readouterr().out
    assert run_config(make_config(dict(small)), tmp_path / "out") == 130


def test_lines_of_the_quickstart_run(small, tmp_path, monkeypatch) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", QUICKSTART.read_text(), flags=re.DOTALL)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 5
    # A file of that name comes before the preset.
    (tmp_path / "demo").write_text(yaml.safe_dump({**small, "seeds": [0]}))
    monkeypatch.chdir(tmp_path)
    exec(lines, names := {})  # noqa: S102
    assert len(names["experiment"].results) == 3
    shutil.rmtree(tmp_path / "experiments_scaling_law")
