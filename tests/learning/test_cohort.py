"""A cell's result is its own: alone or in a cohort, in one go or resumed, beside a cell that dies."""

from pathlib import Path

import numpy as np
import pytest
import torch

import reptile_scaling.learning.cohort as cohort
import reptile_scaling.learning.meta_state as meta_state
from reptile_scaling.config import Config, make_config
from reptile_scaling.interruption import StopRequested
from reptile_scaling.learning.workbench import Workbench, open_corpus, open_workbench
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.runs.cell_directory import CellDirectory
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

CELLS = [Cell(2, 0), Cell(8, 0), Cell(8, 1)]


def open_toy(config: Config) -> Workbench:
    return open_workbench(config, open_corpus(config), "cpu")


def train(config: Config, cells: list[Cell], folder: Path) -> RunDirectory:
    run = RunDirectory(folder)
    cohort.train_cohort(open_toy(config), cells, run)
    return run


def losses(cell: CellDirectory) -> np.ndarray:
    return np.array([task.loss for task in cell.read_test_tasks()])


@pytest.mark.whole_cells
@pytest.mark.parametrize("task_examples", ["fixed", "resampled"])
def test_cohort_equals_single_cells(toy_settings, tmp_path, task_examples: str) -> None:
    config = make_config({**toy_settings, "task_examples": task_examples, "inner_batch_size": 4, "lora_dropout": 0.1})
    together = train(config, CELLS, tmp_path / "together")
    for cell in CELLS:
        alone = train(config, [cell], tmp_path / cell.name)
        np.testing.assert_allclose(losses(together.cell(cell)), losses(alone.cell(cell)), rtol=2e-3, atol=1e-4)


@pytest.mark.whole_cells
def test_resumed_equals_uninterrupted(toy_config, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(toy_config, CELLS, tmp_path / "whole")
    meta_step, n_steps = cohort.meta_step, 0

    def interrupted_step(*arguments):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 4:
            raise StopRequested
        return meta_step(*arguments)

    monkeypatch.setattr(cohort, "meta_step", interrupted_step)
    with pytest.raises(StopRequested):
        train(toy_config, CELLS, tmp_path / "cut")
    cut = RunDirectory(tmp_path / "cut")
    assert cut.cell(CELLS[0]).read_checkpoints()[0].meta_step == 3
    assert not cut.cell(CELLS[0]).is_done
    resumed = train(toy_config, CELLS, tmp_path / "cut")
    for cell in CELLS:
        np.testing.assert_allclose(losses(resumed.cell(cell)), losses(whole.cell(cell)), atol=1e-6)
        steps = [row.meta_step for row in resumed.cell(cell).read_train_stats()]
        assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("step", [2, 4])
def test_stop_between_a_step_and_its_evaluation_loses_none(step: int, toy_config, tmp_path, monkeypatch) -> None:
    whole = train(toy_config, CELLS[:1], tmp_path / "whole")
    asked = 0

    def stop_at(*_) -> None:
        nonlocal asked
        asked += 1
        if asked == step:
            raise StopRequested

    monkeypatch.setattr(cohort, "stop_if_requested", stop_at)
    with pytest.raises(StopRequested):
        train(toy_config, CELLS[:1], tmp_path / "cut")
    resumed = train(toy_config, CELLS[:1], tmp_path / "cut").cell(CELLS[0])
    steps = [row.meta_step for row in whole.cell(CELLS[0]).read_eval_stats()]
    assert steps[-2:] == [2, 4] and [row.meta_step for row in resumed.read_eval_stats()] == steps
    np.testing.assert_allclose(losses(resumed), losses(whole.cell(CELLS[0])), atol=1e-6)


def test_cell_that_diverges_fails_alone(toy_config, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = meta_state.fresh_initialisation

    def poisoned(workbench: Workbench, seed: int) -> Adapters:
        theta = fresh(workbench, seed)
        return theta.map(lambda tensor: tensor * torch.nan) if seed == 1 else theta

    monkeypatch.setattr(meta_state, "fresh_initialisation", poisoned)
    run = train(toy_config, CELLS, tmp_path / "poisoned")
    status = run.cell(Cell(8, 1)).read_status()
    assert status.state == "failed"
    assert "meta-step 1" in status.reason and "lower inner_lr" in status.reason
    monkeypatch.undo()
    healthy = train(toy_config, CELLS[:2], tmp_path / "healthy")
    for cell in CELLS[:2]:
        np.testing.assert_allclose(losses(run.cell(cell)), losses(healthy.cell(cell)), rtol=2e-3, atol=1e-4)


def test_result_counts_what_was_seen(toy_config, tmp_path) -> None:
    run = train(toy_config.model_copy(update={"select": "last"}), [Cell(2, 0)], tmp_path)
    result = run.cell(Cell(2, 0)).read_result()
    # 4 meta-steps × 2 tasks over 2 tasks; two 3-way tasks of 2 support utterances a class.
    assert result.visits_per_task == 4
    assert 3 <= result.distinct_classes <= 6
    assert 6 <= result.distinct_utterances <= 12
    assert result.chance_accuracy == pytest.approx(1 / 3)
    rows = run.cell(Cell(2, 0)).read_test_tasks()
    assert len(rows) == 6
    assert result.meta_test_loss == pytest.approx(np.mean([task.loss for task in rows]))


def test_meta_training_lowers_the_support_loss(toy_settings, tmp_path) -> None:
    config = make_config({**toy_settings, "slots": "fixed", "num_meta_steps": 30, "eval_interval": 30})
    run = train(config, [Cell(1, 0)], tmp_path)
    rows = run.cell(Cell(1, 0)).read_train_stats()
    # One task in the same slots, again and again: after 30 meta-steps its loss before any inner step is far below the
    # first. With slots drawn anew nothing can be known before a step.
    assert rows[-1].support_loss_first_step < 0.5 * rows[0].support_loss_first_step


@pytest.mark.parametrize("head", ["zero", "prototype"])
def test_heads_without_memory_start_test_tasks_at_chance_or_at_prototypes(head: str, toy_settings, tmp_path) -> None:
    config = make_config({**toy_settings, "head": head, "num_meta_test_tasks": 30})
    run = train(config, [Cell(8, 0)], tmp_path)
    result = run.cell(Cell(8, 0)).read_result()
    assert np.isfinite(result.meta_test_loss)
    if head == "zero":
        # Equal logits: the first slot always wins, on a third of the query set.
        assert result.zero_step_accuracy == pytest.approx(1 / 3)


def test_adapter_on_disk_is_the_initialisation_in_peft_format(toy_config, tmp_path, model_folder) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from reptile_scaling.model.peft_io import load_adapter

    run = train(toy_config, [Cell(2, 0)], tmp_path)
    folder = run.cell(Cell(2, 0)).adapter_folder
    workbench = open_toy(toy_config)
    theta = load_adapter(folder, torch.device("cpu"))
    engine = workbench.engine
    ours = engine.features(engine.prepare([np.arange(6)]), theta.repeated(1))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), folder)
    for row in range(6):
        hidden = theirs.get_base_model().base_model(torch.tensor([engine.token_ids[row]])).last_hidden_state
        torch.testing.assert_close(ours[row], hidden[0, -1].detach(), rtol=1e-4, atol=1e-5)
    assert "query accuracy" in (folder / "README.md").read_text()
