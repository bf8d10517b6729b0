import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reptile_scaling.baselines import BASELINES, run_baseline
from reptile_scaling.baselines.prompting import DEMONSTRATION, PROMPT
from reptile_scaling.config import make_config
from reptile_scaling.learning.evaluation import test_episodes as shared_test_episodes
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.workbench import open_corpus, open_workbench
from reptile_scaling.model.label_words import plain_words
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.sweep import baseline_names, plan_sweep, run_sweep


@pytest.fixture(scope="module")
def workbench(toy_settings):
    config = make_config({**toy_settings, "num_meta_test_tasks": 20})
    return open_workbench(config, open_corpus(config), "cpu")


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_reports_every_shared_test_task(name: str, workbench) -> None:
    result = run_baseline(workbench, name)
    assert len(result.task_accuracies) == 20
    assert result.accuracy == pytest.approx(np.mean(result.task_accuracies))
    assert 0 <= result.accuracy <= 1


def test_zero_step_is_exactly_chance(workbench) -> None:
    # A head of zeros gives equal logits: the first slot is chosen, right for one of three ways.
    assert run_baseline(workbench, "zero_step").task_accuracies == pytest.approx([1 / 3] * 20)


def test_nearest_mean_equals_distances_written_out(workbench) -> None:
    encoder, expected = workbench.encoder, []
    for episode in shared_test_episodes(workbench):
        support, query = (
            np.stack([encoder.features(encoder.prepare([row]), None).numpy() for row in part])
            for part in (episode.support, episode.query)
        )
        distances = np.linalg.norm(query[:, :, None] - support.mean(1), axis=-1)
        expected.append((distances.argmin(-1) == np.arange(3)[:, None]).mean())
    assert run_baseline(workbench, "nearest_mean").task_accuracies == pytest.approx(expected)


def test_tuned_fine_tuning_chooses_on_validation_tasks(workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    import reptile_scaling.baselines.fine_tuning as fine_tuning

    seen = []
    evaluate = fine_tuning.evaluate
    monkeypatch.setattr(
        fine_tuning, "evaluate", lambda *a: (seen.append({c for e in a[2] for c in e.classes}), evaluate(*a))[1]
    )
    run_baseline(workbench, "no_meta_tuned")
    split = workbench.corpus.split
    assert all(classes <= set(split.validation) for classes in seen[:-1])
    assert seen[-1] <= set(split.test)


def test_logistic_regression_equals_its_penalised_likelihood(workbench) -> None:
    """Minimised here by plain gradient descent in double precision, at the penalty that was chosen."""
    result = run_baseline(workbench, "logistic_regression")
    encoder, episode = workbench.encoder, shared_test_episodes(workbench)[0]
    support, query = (
        encoder.features(encoder.prepare([part.ravel()]), None).double() for part in (episode.support, episode.query)
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


def test_prompts_show_the_support_set_and_no_query_label(workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    import reptile_scaling.baselines.prompting as prompting

    asked = []
    score = prompting.continuation_scores
    monkeypatch.setattr(prompting, "continuation_scores", lambda *a: (asked.append(a[1:]), score(*a))[1])
    result = run_baseline(workbench, "in_context")
    dataset, tokenizer = workbench.corpus.dataset, workbench.encoder.backbone.tokenizer
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


def test_label_words_are_plain_words() -> None:
    assert plain_words("card_arrival") == "card arrival"
    assert plain_words("TurnOn-light") == "turn on light"
    assert plain_words("reverted_card_payment?") == "reverted card payment"


def test_joint_training_is_a_cell_of_its_own(toy_settings, tmp_path) -> None:
    config = make_config({**toy_settings, "n_tasks_list": [2, 4], "seeds": [1], "num_meta_steps": 8, "k_inner": 3})
    run = RunDirectory(tmp_path)
    run_sweep(plan_sweep(config, run), run)
    joint, cell = run.read_baselines()["joint"], RunDirectory(run.joint_folder).cell(Cell(4, 1))
    # Support sets of 2 thrice a visit against 2 + 3 once: 8 · 3 · 2 / 5 meta-steps see as many utterances.
    assert joint.settings["meta_steps"] == round(9.6) == cell.read_result().meta_steps
    assert joint.accuracy == pytest.approx(cell.read_result().meta_test_accuracy)
    assert [task.accuracy for task in cell.read_test_tasks()] == pytest.approx(joint.task_accuracies)
    assert run.cells() == [Cell(2, 1), Cell(4, 1)]
    assert "joint" not in baseline_names(make_config({**toy_settings, "algorithm": "joint"}))
