from dataclasses import asdict

import numpy as np
import pytest

from reptile_scaling.config import Config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.lab.progress import baselines_line
from reptile_scaling.runs import BaselineResult, Cell, CellResult, CellStatus, Checkpoint, RunDirectory

RESULT = CellResult(2, 0, 0.5, 0.1, 0.8, 0.05, 0.2, 60, 9, 50, 120.0, 12.5, 8.0, 200, 0.2)


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    folder = RunDirectory(tmp_path / "run")
    folder.begin(Config(), "f" * 64, {"torch": "2"})
    return folder


def test_what_is_written_is_read_back(run: RunDirectory) -> None:
    cell = run.cell(Cell(2, 0))
    cell.write_result(RESULT, [{"task": 0, "loss": 0.5, "accuracy": 0.8}])
    assert cell.read_result() == RESULT
    assert cell.read_test_tasks() == [{"task": 0, "loss": 0.5, "accuracy": 0.8}]
    cell.write_train_stats([{"meta_step": 1, "seconds": 0.25}])
    assert cell.read_train_stats() == [{"meta_step": 1, "seconds": 0.25}]
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
    names = ["nearest_mean", "in_context"]
    assert baselines_line(run, names) == "baselines 0/2 done"
    run.write_baseline(
        BaselineResult("nearest_mean", "nearest class mean", 0.9, 0.0, None, None, 0.01, {}, [0.9, 0.9], None)
    )
    assert baselines_line(run, names) == "baselines 1/2 done, left: in_context"
