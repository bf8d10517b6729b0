import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from reptile_scaling.analysis.progress import baselines_line
from reptile_scaling.config import Config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.model.shipped_weights import name_to_load
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import (
    BaselineResult,
    BaselineStatus,
    CellResult,
    CellStatus,
    Checkpoint,
    CurvePoint,
    MetaTestTask,
    Provenance,
    TrainRow,
)

RESULT = CellResult(2, 0, 0.5, 0.1, 0.8, 0.05, 0.2, 60, 9, 50, 120.0, 12.5, 8.0, 200, 0.2)


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    folder = RunDirectory(tmp_path / "run")
    folder.begin(Config(), "f" * 64, {"torch": "2"})
    return folder


def test_what_is_written_is_read_back(run: RunDirectory) -> None:
    cell = run.cell(Cell(2, 0))
    cell.write_train_stats([TrainRow(1, 1.5, 0.5, 0.1, 0.25)])
    cell.write_result(RESULT, [MetaTestTask(0, 0.5, 0.8, 0.2)])
    assert cell.read_result() == RESULT
    assert cell.read_test_tasks() == [MetaTestTask(0, 0.5, 0.8, 0.2)]
    assert cell.read_train_stats() == [TrainRow(1, 1.5, 0.5, 0.1, 0.25)]
    assert run.experiment() == Provenance(Config(), "f" * 64, {"torch": "2"})
    checkpoint = Checkpoint(7, 1.5, {"w": np.arange(6, dtype=np.float32).reshape(2, 3)})
    cell.write_checkpoint(checkpoint)
    (found,) = cell.read_checkpoints()
    assert (found.meta_step, found.wall_seconds) == (7, 1.5)
    np.testing.assert_array_equal(found.tensors["w"], checkpoint.tensors["w"])


def test_cell_with_a_result_is_done_whatever_its_status_says(run: RunDirectory) -> None:
    cell = run.cell(Cell(2, 0))
    assert cell.read_status().state == "pending"
    cell.write_status(CellStatus("running", meta_step=3))
    cell.write_result(RESULT, [])
    assert cell.read_status().state == "done"


def test_result_has_the_fields_of_the_contract() -> None:
    contract = [
        "n_tasks",
        "seed",
        "meta_test_loss",
        "meta_test_loss_std",
        "meta_test_accuracy",
        "meta_test_accuracy_std",
        "zero_step_accuracy",
        "meta_steps",
        "distinct_classes",
        "distinct_utterances",
        "visits_per_task",
        "wall_seconds",
        "tasks_per_second",
    ]
    assert set(contract) <= asdict(RESULT).keys()


def test_folder_of_another_experiment_is_refused_untouched(run: RunDirectory) -> None:
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(
        InputError, match="holds an experiment with k_inner = 5, and this one has 7: choose another --out"
    ):
        run.begin(make_config({"k_inner": 7}), "f" * 64, {})
    with pytest.raises(InputError, match="experiment on other data"):
        run.begin(Config(), "0" * 64, {})
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_larger_grid_and_other_devices_are_the_same_experiment(run: RunDirectory) -> None:
    run.begin(make_config({"n_tasks_list": [2, 4, 8, 16, 50, 200, 400], "devices": "cpu"}), "f" * 64, {})
    assert Cell(400, 0) in run.cells()


def test_foreign_folder_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not empty and holds no experiment: choose another --out"):
        RunDirectory(tmp_path).begin(Config(), "f" * 64, {})


def test_second_process_is_refused(run: RunDirectory) -> None:
    with run.locked(), pytest.raises(InputError, match="another process is running"), run.locked():
        pass


def test_progress_names_the_baselines_that_are_left(run: RunDirectory) -> None:
    """One of them may take minutes, so a line that only counts looks like a hang."""
    run.expect_baselines(["nearest_mean", "in_context", "joint"])
    assert baselines_line(run) == "baselines 0/3 done"
    run.write_baseline(
        BaselineResult("nearest_mean", "nearest class mean", 0.9, 0.0, None, None, 0.01, {}, [0.9, 0.9], None)
    )
    assert baselines_line(run) == "baselines 1/3 done, left: in_context, joint"
    run.write_baseline_status(BaselineStatus("in_context", 10, 50, 20.0))
    assert baselines_line(run) == "baselines 1/3 done, in_context at 20% after 20 s, ETA 80 s, left: joint"
    run.write_baseline_failure("joint", "a kernel went wrong")
    assert baselines_line(run) == "baselines 1/3 done, in_context at 20% after 20 s, ETA 80 s"
    run.expect_baselines(["in_context"])  # an interrupted start's pace is not the next one's
    assert run.read_baselines_left() == {"in_context": BaselineStatus("in_context")}


def test_a_baseline_comes_back_with_its_curve(run: RunDirectory) -> None:
    curve = [CurvePoint(0, 1.6, 0.2), CurvePoint(5, 0.5, 0.8)]
    result = BaselineResult(
        "no_meta", "fine-tuning", 0.9, 0.0, 0.5, 0.1, 0.01, {"inner_lr": 1e-3}, [0.9], [0.5], curve, True
    )
    run.write_baseline(result)
    assert run.read_baselines() == {"no_meta": result}


def test_folder_of_version_0_1_is_read(tmp_path) -> None:
    """Its keys are fewer and its confusions are JSON: it is the experiment it was, without confusions."""
    run = RunDirectory(tmp_path)
    settings = Config().model_dump(mode="json")
    young = settings.pop("k_support_train")
    del settings["slots"], settings["select"]
    experiment = {"config": settings, "data_fingerprint": "f" * 64, "versions": {"reptile-scaling-law": "0.1.0"}}
    (tmp_path / "experiment.json").write_text(json.dumps(experiment, indent=2))
    cell = run.cell(Cell(2, 0))
    cell.path.mkdir()
    rows = {
        "ntasks_2_seed_0_train_stats.csv": "meta_step,support_loss_first_step,support_loss_last_step,meta_lr,seconds\n"
        "1,1.6,0.5,0.1,0.25\n",
        "ntasks_2_seed_0_eval_stats.csv": "",
        "test_tasks.csv": "task,loss,accuracy,zero_step_accuracy\n0,0.5,0.8,0.2\n",
        "test_confusions.json": '{"counts": [{"class": "7", "predicted": "7", "n": 3}]}',
        "final_result.json": json.dumps(asdict(RESULT)),
    }
    for name, content in rows.items():
        (cell.path / name).write_text(content)
    with pytest.raises(InputError, match="slots = 'fixed', and this one has 'permuted': choose another --out"):
        run.begin(Config(), "f" * 64, {})
    run.begin(Config(slots="fixed", select="last"), "f" * 64, {})
    assert run.config().k_support_train == young
    assert (run.results(), cell.read_confusions(), cell.read_eval_stats()) == ([RESULT], [], [])
    assert cell.read_train_stats() == [TrainRow(1, 1.6, 0.5, 0.1, 0.25)]
    assert cell.read_test_tasks() == [MetaTestTask(0, 0.5, 0.8, 0.2)]


def test_experiment_of_another_version_is_refused_in_a_sentence(run: RunDirectory) -> None:
    path = run.path / "experiment.json"
    of_another = {**json.loads(path.read_text()), "config": {"k_inner_of_1999": 5}}
    del of_another["sha256"]
    path.write_text(json.dumps(of_another))
    with pytest.raises(InputError, match=r"cannot be read \(config.k_inner_of_1999: .*: use the version"):
        run.experiment()


def test_card_shows_how_the_base_is_loaded_and_the_shape_of_its_tasks(tmp_path: Path) -> None:
    config = make_config({"model_name": "minilm-l6", "k_support": 1, "names_in_support": True})
    cell = RunDirectory(tmp_path).cell(Cell(2, 0))
    cell.write_card(config, "intents", RESULT, name_to_load(config.model_name), is_encoder=True)
    card = (cell.adapter_folder / "README.md").read_text()
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2\n" in card
    assert "base = AutoModel.from_pretrained('sentence-transformers/all-MiniLM-L6-v2')" in card
    assert "5-way 1-shot, names in the support, seed 0" in card
    assert name_to_load("./a/folder") == "./a/folder"
