"""Classifiers on features that no task adapts: what the pretrained model knows, or an initialisation's LoRA adds."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reptile_scaling.baselines.baseline import Scores, Tell, features_only, mean_loss
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.evaluation import validation_episodes
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.shared_features import SharedFeatures, shared_features
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.heads import logits, prototype_head, task_losses

# Inverse strengths of the L2 penalty that logistic regression may choose from.
PENALTIES = (0.1, 1.0, 10.0, 100.0)

Classifier = Callable[[Episode, Tensor, Tensor], Tensor]
"""(episode, its support features `[S, D]`, its query features `[Q, D]`) → logits `[Q, W]`."""


def nearest_mean(workbench: Workbench, episodes: Sequence[Episode], folder: Path, tell: Tell) -> Scores:
    """Nearest class mean (Snell et al. 2017, arXiv:1703.05175, without training)."""
    settings: dict[str, object] = {"features": "last token, after the final norm"}
    return _scored(frozen_features(workbench, episodes), episodes, nearest_mean_logits, settings)


def nearest_mean_logits(episode: Episode, support: Tensor, query: Tensor) -> Tensor:
    """Squared distances to the class means, as a Classifier."""
    head = Adapters(prototype_head(support[None], slots(episode.support, support.device), len(episode.support)))
    return logits(head, query[None])[0]


def logistic_regression(workbench: Workbench, episodes: Sequence[Episode], folder: Path, tell: Tell) -> Scores:
    """Multinomial logistic regression, its penalty chosen by loss on the validation tasks.

    Features are centred on their task's support mean and scaled to length one: a language model's have a few huge
    common directions.
    """
    tried, validation = [], validation_episodes(workbench)
    features = frozen_features(workbench, validation)
    for number, penalty in enumerate(PENALTIES):
        tell(number, len(PENALTIES) + 1)
        tried.append(_scored(features, validation, regression(penalty), {}))
    best = min(range(len(PENALTIES)), key=lambda i: mean_loss(tried[i]))
    penalty = PENALTIES[best]
    return _scored(frozen_features(workbench, episodes), episodes, regression(penalty), {"C": penalty})


def regression_work(config: Config) -> Work:
    """Features of the tasks that choose the penalty, and of the test tasks."""
    return Work(validation_passes=1) + features_only(config)


def regression(penalty: float) -> Classifier:
    """Logistic regression of one inverse penalty, fitted to each support set."""
    from sklearn.linear_model import LogisticRegression

    def classify(episode: Episode, support: Tensor, query: Tensor) -> Tensor:
        centre = support.mean(0)
        inputs_S, inputs_Q = (
            torch.nn.functional.normalize(part - centre, dim=1).double().cpu().numpy() for part in (support, query)
        )
        model = LogisticRegression(C=penalty, max_iter=1000)
        model.fit(inputs_S, slots(episode.support, torch.device("cpu")).numpy())
        return torch.from_numpy(model.predict_log_proba(inputs_Q)).float().to(query.device)

    return classify


def frozen_features(workbench: Workbench, episodes: Sequence[Episode], theta: Adapters | None = None) -> SharedFeatures:
    """Of the utterances of all episodes: the pretrained model's, or those under an initialisation `[…]`."""
    return shared_features(workbench.engine, (own for e in episodes for own in (e.support, e.query)), theta)


def _scored(
    features: SharedFeatures, episodes: Sequence[Episode], classify: Classifier, settings: dict[str, object]
) -> Scores:
    accuracies, losses = [], []
    for episode in episodes:
        support, query = features.of(episode.support), features.of(episode.query)
        scores, labels = classify(episode, support, query), slots(episode.query, query.device)
        accuracies.append(float((scores.argmax(-1) == labels).float().mean()))
        losses.append(float(task_losses(scores[None], labels[None])))
    return Scores(np.array(accuracies), np.array(losses), settings)
