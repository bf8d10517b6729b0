"""Which point of a cell is tested, when validation is asked, and what a cell without a future costs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import reptile_scaling.learning.cohort as cohort
from reptile_scaling.config import make_config
from reptile_scaling.interruption import StopRequested
from reptile_scaling.learning.budget import Start, choose_budget, read_with_budget
from reptile_scaling.learning.curve import measure_curve, measure_with_curve
from reptile_scaling.learning.evaluation import BEFORE, evaluate, read_along, validation_episodes
from reptile_scaling.learning.evaluation import test_episodes as episodes_of
from reptile_scaling.learning.evaluation import test_loop as loop_of
from reptile_scaling.learning.examples import slots as slots_of
from reptile_scaling.learning.selection import evaluation_is_due, has_passed_its_best, running_mean
from reptile_scaling.learning.shared_features import shared_features
from reptile_scaling.learning.starts import starting_points
from reptile_scaling.learning.workbench import fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.model.adapters import HEAD_LOG_SCALE, HEAD_WORDS, Adapters
from reptile_scaling.model.heads import HEADS, logits
from reptile_scaling.model.peft_io import load_adapter
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import EvalRow

ONE_CELL = (Cell(2, 0),)


def trained(settings, folder, cells=ONE_CELL) -> RunDirectory:
    config, run = make_config(settings), RunDirectory(folder)
    cohort.train_cohort(open_workbench(config, open_corpus(config), "cpu"), list(cells), run)
    return run


def test_validation_stands_at_spaced_steps_and_at_every_interval() -> None:
    config = make_config({"num_meta_steps": 130, "eval_interval": 60})
    due = [step for step in range(131) if evaluation_is_due(step, config)]
    assert due == [0, 1, 2, 5, 10, 20, 50, 60, 100, 120, 130]


def test_patience_counts_evaluations_after_the_best() -> None:
    config = make_config({"patience": 2, "eval_interval": 1})
    rows = [EvalRow(step, loss, 0.5, 0.2) for step, loss in enumerate((1.0, 0.5, 0.7, 0.6))]
    assert not has_passed_its_best(rows[:3], config)
    assert has_passed_its_best(rows, config)
    assert not has_passed_its_best(rows, make_config({"eval_interval": 1}))


def test_patience_does_not_count_the_evaluations_that_bracket_an_early_optimum() -> None:
    """A cell of the demo whose luck is at meta-step 1 ended at 20 of 40, with half a dozen steps behind it."""
    config = make_config({"patience": 2, "eval_interval": 20})
    rows = [EvalRow(step, 1.0 if step == 1 else 2.0, 0.5, 0.2) for step in (0, 1, 2, 5, 10, 20, 40, 50)]
    assert [has_passed_its_best(rows[:n], config) for n in range(len(rows) + 1)] == [False] * 7 + [True] * 2


def test_running_mean_forgets_its_beginning() -> None:
    mean, theta = Adapters({"w": torch.tensor([1.0])}), Adapters({"w": torch.tensor([0.0])})
    for step in range(1, 400):
        mean = running_mean(mean, theta, step)
    assert 0 <= float(mean.tensors["w"]) < 1e-3


def test_tested_point_is_the_best_on_validation_tasks_and_the_last_stands_beside_it(toy_settings, tmp_path) -> None:
    settings = {**toy_settings, "num_meta_steps": 6, "eval_interval": 1, "slots": "fixed", "meta_lr": 1.0}
    best, last = (trained({**settings, "select": s}, tmp_path / s).cell(Cell(2, 0)) for s in ("best", "last"))
    rows, result = best.read_eval_stats(), best.read_result()
    assert [row.meta_step for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert result.selected_meta_step == min(rows, key=lambda row: row.validation_loss).meta_step
    assert result.last_meta_test_loss == pytest.approx(last.read_result().meta_test_loss, abs=1e-6)
    assert last.read_result().selected_meta_step == 6
    if result.selected_meta_step != 6:
        theta = [load_adapter(cell.adapter_folder, torch.device("cpu")) for cell in (best, last)]
        assert any(not torch.equal(x, theta[1].tensors[name]) for name, x in theta[0].tensors.items())


@pytest.mark.parametrize("select", ["best", "mean"])
def test_resumed_selection_equals_uninterrupted(select: str, toy_settings, tmp_path, monkeypatch) -> None:
    settings = {
        **toy_settings,
        "num_meta_steps": 6,
        "eval_interval": 2,
        "select": select,
        "patience": 2,
        "curve_steps": [1, 3],
    }
    cells = (Cell(2, 0), Cell(8, 0))
    whole, step, n_steps = trained(settings, tmp_path / "whole", cells), cohort.meta_step, 0

    def interrupted(*arguments):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 4:
            raise StopRequested
        return step(*arguments)

    monkeypatch.setattr(cohort, "meta_step", interrupted)
    if max(whole.cell(cell).read_result().meta_steps for cell in cells) >= 4:
        with pytest.raises(StopRequested):
            trained(settings, tmp_path / "cut", cells)
    monkeypatch.undo()
    cut = trained(settings, tmp_path / "cut", cells)
    for cell in cells:
        a, b = whole.cell(cell).read_result(), cut.cell(cell).read_result()
        assert (a.selected_meta_step, a.meta_steps) == (b.selected_meta_step, b.meta_steps)
        assert a.meta_test_loss == pytest.approx(b.meta_test_loss, abs=1e-6)


def test_one_adaptation_tells_of_every_number_of_steps(toy_settings) -> None:
    config = make_config({**toy_settings, "inner_batch_size": 4})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    theta, episodes, loop = fresh_initialisation(workbench, 0), episodes_of(workbench), loop_of(config)
    along = read_along(workbench.engine, theta, episodes, loop, (0, 1, 3))
    for steps in (1, 3):
        alone = evaluate(workbench.engine, theta, episodes, replace(loop, steps=steps))
        np.testing.assert_allclose(along[steps].loss, alone.loss, atol=1e-6)
    np.testing.assert_allclose(along[0].loss, alone.zero_step_loss, atol=1e-6)


@pytest.mark.parametrize("head", ["classifier", "prototype", "cosine", "words_prototype"])
def test_utterances_read_once_for_all_tasks_equal_each_task_alone(head: str, toy_settings) -> None:
    """Without inner steps tasks share their features; beside it a step more, which reads every task on its own."""
    config = make_config({**toy_settings, "head": head, "num_meta_test_tasks": 9, "max_tasks_in_flight": 4})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    theta = fresh_initialisation(workbench, 0).map(lambda tensor: tensor + 0.1 * torch.randn_like(tensor))
    episodes, loop = episodes_of(workbench), loop_of(config)
    shared = read_along(workbench.engine, theta, episodes, loop, (BEFORE, 0))
    alone = read_along(workbench.engine, theta, episodes, loop, (BEFORE, 0, 1))
    for step in (BEFORE, 0):
        np.testing.assert_allclose(shared[step].loss, alone[step].loss, atol=1e-5)
        np.testing.assert_array_equal(shared[step].predicted, alone[step].predicted)
    assert head == "classifier" or not np.allclose(shared[0].loss, shared[BEFORE].loss)


def test_words_and_prototypes_are_the_sum_of_both(toy_settings) -> None:
    """Before the support set is seen the head is `label_words`; then `prototype` is added to it."""
    config = make_config({**toy_settings, "head": "words_prototype"})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    engine, episode = workbench.engine, episodes_of(workbench)[0]
    theta = fresh_initialisation(workbench, 0)
    plain = Adapters({name: own for name, own in theta.tensors.items() if name not in (HEAD_LOG_SCALE, HEAD_WORDS)})
    words = starting_points(engine, plain, [episode.classes], "label_words")
    both = starting_points(engine, theta, [episode.classes], "words_prototype")
    features = shared_features(engine, [episode.support, episode.query], theta)
    support, query = features.of(episode.support)[None], features.of(episode.query)[None]
    labels = slots_of(episode.support, support.device)
    torch.testing.assert_close(logits(both, query), logits(words, query))
    prototypes = Adapters(words.tensors | HEADS["prototype"].from_support(support, labels, config.n_way))
    both = Adapters(both.tensors | HEADS["words_prototype"].from_support(support, labels, config.n_way))
    torch.testing.assert_close(logits(both, query), logits(words, query) + logits(prototypes, query))


def test_budget_grows_until_its_best_is_inside(toy_settings) -> None:
    """From a rate far too small the grid goes up; what it promises is what is read."""
    config = make_config({**toy_settings, "inner_lr": 0.001})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    start, validation = Start(fresh_initialisation(workbench, 0)), validation_episodes(workbench)
    budget = choose_budget(workbench.engine, start, validation, loop_of(config), (1, 3))
    assert budget.rates[1] >= 0.008
    read = read_with_budget(workbench.engine, start, validation, loop_of(config), budget)
    assert list(read) == [0, 1, 3]
    assert float(read[3].loss.mean()) == pytest.approx(budget.validation_losses[3], abs=1e-6)


@pytest.mark.parametrize(("inner_lr", "is_shared"), [(0.00625, True), (0.001, False)])
def test_meta_test_read_beside_the_curve_is_the_meta_test(inner_lr: float, is_shared: bool, toy_settings) -> None:
    """Whether the configured rate is one of the chosen ones, so that one adaptation is read for both, or is not."""
    config = make_config({**toy_settings, "inner_lr": inner_lr, "curve_steps": [1, 5]})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    start = Start(fresh_initialisation(workbench, 0))
    beside, curve = measure_with_curve(workbench, start)
    assert (inner_lr in curve.budget.rates.values()) == is_shared
    alone = evaluate(workbench.engine, start.theta, episodes_of(workbench), loop_of(config))
    for own, other in ((beside.before, alone.before), (beside.after, alone.after)):
        np.testing.assert_allclose(own.loss, other.loss, atol=1e-6)
        np.testing.assert_array_equal(own.predicted, other.predicted)
    curve_alone = measure_curve(workbench, start)
    assert curve.budget == curve_alone.budget and curve.points == curve_alone.points


def test_no_step_is_the_head_of_the_support_set_and_a_choice(toy_settings) -> None:
    """Prototypes stand before the first step, and where steps harm none is best; a classifier's 0 is at chance."""
    config = make_config({**toy_settings, "head": "cosine", "k_inner_test": 0, "inner_lr": 100.0})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    start, validation = Start(fresh_initialisation(workbench, 0)), validation_episodes(workbench)
    loop = loop_of(config)
    read = evaluate(workbench.engine, start.theta, validation, loop)
    assert float(read.zero_step_loss.mean()) == pytest.approx(math.log(3), abs=1e-5)
    along = read_along(workbench.engine, start.theta, validation, loop, (0, 1))
    np.testing.assert_allclose(along[0].loss, read.loss, atol=1e-6)
    assert float(read.loss.mean()) != pytest.approx(math.log(3), abs=1e-3)
    budget = choose_budget(workbench.engine, start, validation, loop, (1, 3))
    assert budget.validation_losses[0] == pytest.approx(float(read.loss.mean()), abs=1e-6)
    assert budget.best_steps == 0 and 0 not in budget.rates


def test_memoriser_is_known_by_its_zero_step_loss(toy_settings, tmp_path) -> None:
    """Two tasks in the same slots at every visit teach the classifier which slot; drawn anew they cannot."""
    settings = {
        **toy_settings, "num_meta_steps": 40, "eval_interval": 40, "meta_lr": 0.3, "k_inner": 5, "select": "last",
    }  # fmt: skip
    chance, worst = math.log(3), {}
    for slots in ("fixed", "permuted"):
        rows = trained({**settings, "slots": slots}, tmp_path / slots).cell(Cell(2, 0)).read_eval_stats()
        worst[slots] = rows[-1].zero_step_loss
    assert worst["fixed"] > 1.5 * chance
    assert worst["permuted"] < 1.2 * chance
