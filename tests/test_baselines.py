import numpy as np
import pytest

from reptile_scaling.baselines import BASELINES, label_words, run_baseline
from reptile_scaling.config import make_config
from reptile_scaling.evaluation import test_episodes as shared_test_episodes
from reptile_scaling.experiment import open_corpus, open_experiment


@pytest.fixture(scope="module")
def experiment(toy_settings):
    config = make_config({**toy_settings, "num_meta_test_tasks": 20})
    return open_experiment(config, open_corpus(config), "cpu")


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_reports_every_shared_test_task(name: str, experiment) -> None:
    result = run_baseline(experiment, name)
    assert len(result.task_accuracies) == 20
    assert result.accuracy == pytest.approx(np.mean(result.task_accuracies))
    assert 0 <= result.accuracy <= 1


def test_zero_step_is_exactly_chance(experiment) -> None:
    # A head of zeros gives equal logits: the first slot is chosen, right for one of three ways.
    assert run_baseline(experiment, "zero_step").task_accuracies == pytest.approx([1 / 3] * 20)


def test_nearest_mean_equals_distances_written_out(experiment) -> None:
    encoder, expected = experiment.encoder, []
    for episode in shared_test_episodes(experiment):
        support, query = (
            np.stack([encoder.features(encoder.prepare([row]), None).numpy() for row in part])
            for part in (episode.support, episode.query)
        )
        distances = np.linalg.norm(query[:, :, None] - support.mean(1), axis=-1)
        expected.append((distances.argmin(-1) == np.arange(3)[:, None]).mean())
    assert run_baseline(experiment, "nearest_mean").task_accuracies == pytest.approx(expected)


def test_tuned_fine_tuning_chooses_on_validation_tasks(experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    import reptile_scaling.baselines as baselines

    seen = []
    evaluate = baselines.evaluate
    monkeypatch.setattr(
        baselines, "evaluate", lambda *a: (seen.append({c for e in a[2] for c in e.classes}), evaluate(*a))[1]
    )
    run_baseline(experiment, "no_meta_tuned")
    split = experiment.corpus.split
    assert all(classes <= set(split.validation) for classes in seen[:-1])
    assert seen[-1] <= set(split.test)


def test_label_words_are_plain_words() -> None:
    assert label_words("card_arrival") == "card arrival"
    assert label_words("TurnOn-light") == "turn on light"
    assert label_words("reverted_card_payment?") == "reverted card payment"
