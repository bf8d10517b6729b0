import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reptile_scaling.analysis.progress import baselines_line
from reptile_scaling.baselines import BASELINES, run_baseline
from reptile_scaling.baselines.baseline import StepsTold
from reptile_scaling.baselines.joint import OUTER_RATES
from reptile_scaling.baselines.prompting import DEMONSTRATION, PROMPT
from reptile_scaling.config import make_config
from reptile_scaling.data.plain_words import plain_words
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import BaselineJob, baseline_names, plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.learning import budget
from reptile_scaling.learning.evaluation import test_episodes as shared_test_episodes
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.workbench import open_corpus, open_workbench
from reptile_scaling.model.continuations import continuation_scores
from reptile_scaling.model.engine import Engine
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import BaselineStatus


@pytest.fixture(scope="module")
def workbench(toy_settings):
    config = make_config({**toy_settings, "num_meta_test_tasks": 20, "curve_steps": [1, 3], "baselines": None})
    return open_workbench(config, open_corpus(config), "cpu")


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_reports_every_shared_test_task(name: str, workbench, tmp_path) -> None:
    result = run_baseline(workbench, name, tmp_path, silent)
    assert len(result.task_accuracies) == 20
    assert result.accuracy == pytest.approx(np.mean(result.task_accuracies))
    assert 0 <= result.accuracy <= 1


def silent(done: int, of: int) -> None:
    """For a baseline whose progress nobody follows."""


def test_zero_step_is_exactly_chance(workbench, tmp_path) -> None:
    # A head of zeros gives equal logits: the first slot is chosen, right for one of three ways.
    assert run_baseline(workbench, "zero_step", tmp_path, silent).task_accuracies == pytest.approx([1 / 3] * 20)


def test_nearest_mean_equals_distances_written_out(workbench, tmp_path) -> None:
    engine, expected = workbench.engine, []
    for episode in shared_test_episodes(workbench):
        support, query = (
            np.stack([engine.features(engine.prepare([row]), None).numpy() for row in part])
            for part in (episode.support, episode.query)
        )
        distances = np.linalg.norm(query[:, :, None] - support.mean(1), axis=-1)
        expected.append((distances.argmin(-1) == np.arange(3)[:, None]).mean())
    assert run_baseline(workbench, "nearest_mean", tmp_path, silent).task_accuracies == pytest.approx(expected)


def test_names_in_the_support_set_are_read_by_what_needs_no_training(workbench, tmp_path) -> None:
    """Nearest mean of a class's utterances and its name, whose prompt is written out here."""
    config = workbench.config.model_copy(update={"names_in_support": True})
    named = open_workbench(config, workbench.corpus, "cpu")
    dataset, tokenizer = workbench.corpus.dataset, workbench.engine.backbone.tokenizer
    prompts = [config.template.replace("{text}", plain_words(name)) for name in dataset.class_names]
    names = Engine(workbench.engine.backbone, tokenizer(prompts)["input_ids"])
    expected = []
    for episode in shared_test_episodes(workbench):
        read = (
            torch.cat([workbench.engine.features(workbench.engine.prepare([row]), None) for row in part])
            for part in (episode.support, episode.query)
        )
        support, query = (features.unflatten(0, (3, -1)).numpy() for features in read)
        own = names.features(names.prepare([np.array(episode.classes)]), None).numpy()
        means = np.concatenate([support, own[:, None]], axis=1).mean(1)
        distances = np.linalg.norm(query[:, :, None] - means, axis=-1)
        expected.append((distances.argmin(-1) == np.arange(3)[:, None]).mean())
    found = run_baseline(named, "nearest_mean", tmp_path, silent).task_accuracies
    assert found == pytest.approx(expected)
    assert found != run_baseline(workbench, "nearest_mean", tmp_path, silent).task_accuracies


def test_tuned_fine_tuning_chooses_on_validation_tasks(workbench, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, read = [], budget.read_along

    def reading(engine, theta, episodes, *rest):
        seen.append({c for e in episodes for c in e.classes})
        return read(engine, theta, episodes, *rest)

    monkeypatch.setattr(budget, "read_along", reading)
    result = run_baseline(workbench, "no_meta_tuned", tmp_path, silent)
    split, config = workbench.corpus.split, workbench.config
    tested = [classes for classes in seen if not classes <= set(split.validation)]
    assert tested and all(classes <= set(split.test) for classes in tested)
    assert len(seen) - len(tested) >= len(config.seeds) * len(budget.FIRST_RATES)
    assert result.settings["initialisations"] == len(config.seeds)


@pytest.mark.parametrize("name", ["no_meta", "no_meta_tuned", "zero_shot_labels", "in_context"])
def test_what_takes_long_tells_all_of_its_parts(name: str, workbench, tmp_path) -> None:
    told: list[tuple[int, int]] = []
    run_baseline(workbench, name, tmp_path, lambda *parts: told.append(parts))
    assert len(told) >= 2 and told[-1][0] == told[-1][1]
    assert all(done <= of for done, of in told) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_steps_of_a_grid_that_grew_are_expected_of_later_initialisations() -> None:
    told: list[tuple[int, int]] = []
    steps = StepsTold(lambda *parts: told.append(parts), n_initialisations=2, at_least=10)
    for _ in range(3):
        steps(5)
    steps.finish()
    steps(5)
    steps.finish()
    assert told == [(5, 20), (10, 20), (15, 30), (20, 30)]


def test_logistic_regression_equals_its_penalised_likelihood(workbench, tmp_path) -> None:
    """Minimised here by plain gradient descent in double precision, at the penalty that was chosen."""
    result = run_baseline(workbench, "logistic_regression", tmp_path, silent)
    engine, episode = workbench.engine, shared_test_episodes(workbench)[0]
    support, query = (
        engine.features(engine.prepare([part.ravel()]), None).double() for part in (episode.support, episode.query)
    )
    inputs_S, inputs_Q = (F.normalize(part - support.mean(0), dim=1) for part in (support, query))
    labels_S, labels_Q = (slots(part, torch.device("cpu")) for part in (episode.support, episode.query))
    weight, bias = (torch.zeros(3, n, dtype=torch.double, requires_grad=True) for n in (inputs_S.shape[1], 1))
    descent = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def penalised() -> torch.Tensor:
        descent.zero_grad()
        fit = F.cross_entropy(inputs_S @ weight.T + bias.T, labels_S, reduction="sum")
        total = result.settings["C"] * fit + weight.square().sum() / 2
        total.backward()
        return total

    descent.step(penalised)
    loss = F.cross_entropy(inputs_Q @ weight.T + bias.T, labels_Q)
    assert result.task_losses[0] == pytest.approx(float(loss.detach()), rel=1e-2)


def test_prompts_show_the_support_set_and_no_query_label(workbench, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import reptile_scaling.baselines.prompting as prompting

    asked = []
    score = prompting.continuation_scores
    monkeypatch.setattr(prompting, "continuation_scores", lambda *a: (asked.append(a[1:4]), score(*a))[1])
    result = run_baseline(workbench, "in_context", tmp_path, silent)
    dataset, tokenizer = workbench.corpus.dataset, workbench.engine.backbone.tokenizer
    episode, (context, prompts, labels) = shared_test_episodes(workbench)[0], asked[0]
    words = [plain_words(dataset.class_names[c]) for c in episode.classes]

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    shown = [
        tokens(DEMONSTRATION.format(text=dataset.texts[u], label=words[w]))
        for w, row in enumerate(episode.support) for u in row[: result.settings["fewest_shots"]]
    ]  # fmt: skip
    assert sorted(context) == sorted(token for one in shown for token in one)
    queries = [dataset.texts[u] for u in episode.query.ravel()]
    assert prompts == [tokens(PROMPT.format(text=text)) for text in [*queries, "N/A"]]
    assert labels == [tokens(" " + word) for word in words]
    assert 1 <= result.settings["fewest_shots"] <= 2


def test_prompted_baselines_equal_each_utterance_and_label_alone(workbench, tmp_path) -> None:
    """Whatever tasks share, one sentence at a time and never remembered gives the same losses."""
    engine, dataset = workbench.engine, workbench.corpus.dataset
    tokenizer = engine.backbone.tokenizer

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def alone(text: str, label: str) -> float:
        prompt, only = [tokens(PROMPT.format(text=text))], np.ones((1, 1), dtype=bool)
        return float(continuation_scores(engine.backbone, [], prompt, [tokens(" " + label)], only)[0, 0])

    told: list[tuple[int, int]] = []
    result = run_baseline(workbench, "zero_shot_labels", tmp_path, lambda *parts: told.append(parts))
    for number, episode in enumerate(shared_test_episodes(workbench)):
        words = [plain_words(dataset.class_names[c]) for c in episode.classes]
        scores = [[alone(dataset.texts[u], w) - alone("N/A", w) for w in words] for u in episode.query.ravel()]
        loss = F.cross_entropy(torch.tensor(scores), slots(episode.query, torch.device("cpu")))
        assert result.task_losses[number] == pytest.approx(float(loss), abs=1e-4)
    assert told[-1][0] == told[-1][1] == len(told)


def test_label_words_are_plain_words() -> None:
    assert plain_words("card_arrival") == "card arrival"
    assert plain_words("TurnOn-light") == "turn on light"
    assert plain_words("reverted_card_payment?") == "reverted card payment"


@pytest.mark.whole_cells
def test_joint_training_is_a_cell_of_its_own(toy_settings, tmp_path) -> None:
    config = make_config(
        {**toy_settings, "n_tasks_list": [2, 4], "seeds": [1], "num_meta_steps": 8, "k_inner": 3, "baselines": None}
    )
    run = RunDirectory(tmp_path)
    run_sweep(plan_sweep(config, run), run)
    joint = run.read_baselines()["joint"]
    cell = RunDirectory(run.baseline_folder("joint") / f"meta_lr_{joint.settings['meta_lr']:g}").cell(Cell(4, 1))
    # Support sets of 2 thrice a visit against 2 + 3 once: 8 · 3 · 2 / 5 meta-steps see as many utterances.
    assert joint.settings["meta_steps"] == round(9.6) == cell.read_result().meta_steps
    assert joint.accuracy == pytest.approx(cell.read_result().meta_test_accuracy)
    assert [task.accuracy for task in cell.read_test_tasks()] == pytest.approx(joint.task_accuracies)
    assert run.cells() == [Cell(2, 1), Cell(4, 1)]
    assert "joint" not in baseline_names(make_config({**toy_settings, "algorithm": "joint"}))


def test_named_baselines_alone_are_planned_in_the_order_of_the_dict(toy_settings, tmp_path) -> None:
    def planned(*names: str) -> list[str]:
        plan = plan_sweep(
            make_config({**toy_settings, "curve_steps": [1, 3], "baselines": list(names)}),
            RunDirectory(tmp_path),
        )
        return [job.name for job in plan.jobs if isinstance(job, BaselineJob)]

    assert planned("joint", "no_meta") == ["no_meta", "joint"]
    assert planned() == []
    assert baseline_names(make_config({**toy_settings, "curve_steps": [1, 3], "baselines": None})) == list(BASELINES)


def test_baselines_may_change_when_a_run_goes_on(toy_settings, tmp_path) -> None:
    """First one, then two more, then none: what was measured stays."""
    run, settings = (
        RunDirectory(tmp_path),
        {**toy_settings, "curve_steps": [1, 3], "n_tasks_list": [2], "seeds": [0]},
    )
    for names, found in (
        (["zero_step"], {"zero_step"}),
        (["nearest_mean", "zero_step"], {"zero_step", "nearest_mean"}),
        ([], {"zero_step", "nearest_mean"}),
    ):
        run_sweep(plan_sweep(make_config({**settings, "baselines": names}), run), run)
        assert set(run.read_baselines()) == found


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"baselines": ["magic"]}, "baselines = 'magic' is unknown: use zero_step or nearest_mean or .* or in_context"),
        (
            {"baselines": ["zero_step", "joint"], "algorithm": "joint"},
            "baselines names 'joint', which does not apply to algorithm 'joint' on .*: leave it out",
        ),
    ],
)
def test_baseline_that_cannot_be_measured_is_refused(toy_settings, tmp_path, settings, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        plan_sweep(make_config({**toy_settings, **settings}), RunDirectory(tmp_path))


def test_zero_step_of_version_0_1_is_no_rival_either(workbench, tmp_path) -> None:
    run = RunDirectory(tmp_path)
    for name in ("zero_step", "no_meta"):
        run.write_baseline(run_baseline(workbench, name, tmp_path, silent))
        path = tmp_path / "baselines" / f"{name}.json"
        fields = json.loads(path.read_text())
        del fields["sha256"]  # which it had none of either
        assert fields.pop("is_rival") == (name != "zero_step")
        path.write_text(json.dumps(fields))
    assert {name: b.is_rival for name, b in run.read_baselines().items()} == {"zero_step": False, "no_meta": True}


def test_baseline_that_trains_resumes_in_its_own_folder_and_says_where_it_is(workbench, tmp_path) -> None:
    run = RunDirectory(tmp_path)
    run.begin(workbench.config, "f" * 64, {})
    folder = run.baseline_folder("joint")
    first = run_baseline(workbench, "joint", folder, silent)
    cells = [path.parent for path in sorted(folder.glob("*/*/final_result.json"))]
    assert len(cells) == len(OUTER_RATES) + len(workbench.config.seeds) - 1
    done = [(cell / "final_result.json").stat().st_mtime_ns for cell in cells]
    told: list[tuple[int, int]] = []
    again = run_baseline(workbench, "joint", folder, lambda *parts: told.append(parts))
    assert again == first  # nothing is trained again, and the seconds are the cells'
    assert [(cell / "final_result.json").stat().st_mtime_ns for cell in cells] == done
    assert told == [(n, len(cells)) for n in range(len(cells))]
    run.expect_baselines(["joint", "no_meta"])
    assert baselines_line(run) == "baselines 0/2 done"
    for cell, seconds in zip(cells, [6, *[0] * len(cells)], strict=False):
        (cell / "status.json").write_text(json.dumps({"state": "done", "num_meta_steps": 4, "wall_seconds": seconds}))
    (cells[1] / "final_result.json").unlink()
    (cells[1] / "status.json").write_text(json.dumps({"state": "running", "meta_step": 2, "num_meta_steps": 4}))
    run.write_baseline_status(BaselineStatus("joint", 1, 4, 9.0))
    assert baselines_line(run) == "baselines 0/2 done, joint at 38% after 6 s, ETA 10 s, left: no_meta"
    assert run.read_baselines_left()["joint"] == BaselineStatus("joint", 6, 16, 6.0)
