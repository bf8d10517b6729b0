"""What a meta-learned initialisation must beat, on the same test tasks.

A new baseline is a function here and an entry in BASELINES. All choices are made on validation classes.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reptile_scaling.adaptation import InnerLoop, slots
from reptile_scaling.config import Config
from reptile_scaling.evaluation import (
    READINGS_PER_TASK,
    adaptation_curve,
    curve_work,
    evaluate,
    test_episodes,
    test_loop,
    validation_episodes,
)
from reptile_scaling.experiment import Experiment, fresh_initialisation
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.heads import logits, prototype_head, task_losses
from reptile_scaling.runs import BaselineResult
from reptile_scaling.tasks import Episode

# Multiples of the configured inner loop that the tuned baseline may choose from.
TUNING_RATES = (0.5, 1.0, 2.0, 4.0)
TUNING_STEPS = (1, 4)
UTTERANCES_PER_FORWARD = 256


@dataclass(frozen=True)
class Scores:
    """Per test task; and whatever the baseline chose."""

    accuracy: np.ndarray
    loss: np.ndarray | None
    settings: dict[str, Any]


def run_baseline(experiment: Experiment, name: str) -> BaselineResult:
    """One baseline on the shared test tasks."""
    baseline = BASELINES[name]
    episodes = test_episodes(experiment)
    # The shared activations of the test utterances are not this baseline's cost.
    experiment.encoder.remember(np.concatenate([part.ravel() for e in episodes for part in (e.support, e.query)]))
    began = time.perf_counter()
    scores = baseline.measure(experiment, episodes)
    seconds = (time.perf_counter() - began) / len(episodes)
    spread = 1 if len(episodes) > 1 else 0
    # A rate at which fine-tuning diverges leaves labels to count but no loss to speak of.
    loss = scores.loss if scores.loss is not None and np.isfinite(scores.loss).all() else None
    return BaselineResult(
        name=name,
        label=baseline.label,
        accuracy=float(scores.accuracy.mean()),
        accuracy_std=float(scores.accuracy.std(ddof=spread)),
        loss=float(loss.mean()) if loss is not None else None,
        loss_std=float(loss.std(ddof=spread)) if loss is not None else None,
        seconds_per_task=seconds,
        settings=scores.settings,
        task_accuracies=scores.accuracy.tolist(),
        task_losses=loss.tolist() if loss is not None else None,
        adaptation_curve=_curve(experiment, episodes) if name == "no_meta" else [],
    )


def _curve(experiment: Experiment, episodes: Sequence[Episode]) -> list[dict[str, float | int]]:
    """Fine-tuning from the pretrained model, on the tasks that cells draw their curves on."""
    config = experiment.config
    shown = episodes[: config.num_validation_tasks]
    return adaptation_curve(experiment.encoder, fresh_initialisation(experiment, 0), shown, test_loop(config))


def zero_step(experiment: Experiment, episodes: Sequence[Episode]) -> Scores:
    """The pretrained model under a fresh head, before any step: chance, or the slots leak."""
    loop = replace(test_loop(experiment.config), steps=1)
    figures = evaluate(experiment.encoder, fresh_initialisation(experiment, 0), episodes, loop)
    return Scores(figures.zero_step_accuracy, None, {})


def no_meta(experiment: Experiment, episodes: Sequence[Episode]) -> Scores:
    """The cells' own inner loop from the pretrained model."""
    return _fine_tuned(experiment, episodes, test_loop(experiment.config))


def no_meta_tuned(experiment: Experiment, episodes: Sequence[Episode]) -> Scores:
    """Fine-tuning from the pretrained model with rate and steps chosen by loss on the validation tasks."""
    own = test_loop(experiment.config)
    choices = [
        replace(own, steps=own.steps * steps, learning_rate=own.learning_rate * rate)
        for steps in TUNING_STEPS
        for rate in TUNING_RATES
    ]
    validation = validation_episodes(experiment)
    losses = [_fine_tuned(experiment, validation, choice).loss for choice in choices]
    best = min(range(len(choices)), key=lambda i: _mean_loss(losses[i]))
    return _fine_tuned(experiment, episodes, choices[best])


def _mean_loss(losses: np.ndarray | None) -> float:
    assert losses is not None
    mean = float(losses.mean())
    return mean if np.isfinite(mean) else float("inf")


def _fine_tuned(experiment: Experiment, episodes: Sequence[Episode], loop: InnerLoop) -> Scores:
    figures = evaluate(experiment.encoder, fresh_initialisation(experiment, 0), episodes, loop)
    return Scores(figures.accuracy, figures.loss, {"inner_lr": loop.learning_rate, "inner_steps": loop.steps})


def nearest_mean(experiment: Experiment, episodes: Sequence[Episode]) -> Scores:
    """Nearest class mean on frozen last-token features (Snell et al. 2017, without training); no adaptation."""
    vectors, row_of = frozen_features(experiment, episodes)
    accuracies, losses = [], []
    for episode in episodes:
        support, query = (
            vectors[[row_of[u] for u in part.ravel().tolist()]] for part in (episode.support, episode.query)
        )
        head = Adapters(prototype_head(support[None], slots(episode.support, support.device), len(episode.support)))
        labels = slots(episode.query, support.device)[None]
        scores = logits(head, query[None])
        accuracies.append(float((scores.argmax(-1) == labels).float().mean()))
        losses.append(float(task_losses(scores, labels)))
    return Scores(np.array(accuracies), np.array(losses), {"features": "last token, after the final norm"})


def zero_shot_labels(experiment: Experiment, episodes: Sequence[Episode]) -> Scores:
    """The frozen LM alone: which label's words does it expect next after the prompt?

    The score of a class is the mean log-probability of its name's tokens at the answer position, less their mean
    over the task's query set (a label must not win by being a common word; Holtzman et al. 2021).
    """
    vectors, row_of = frozen_features(experiment, episodes)
    log_probabilities = _next_token_log_probabilities(experiment, vectors)
    names = experiment.corpus.dataset.class_names
    tokens_of = {c: _label_tokens(experiment, names[c]) for c in {c for e in episodes for c in e.classes}}
    accuracies, losses = [], []
    for episode in episodes:
        rows = [row_of[u] for u in episode.query.ravel().tolist()]
        scores = torch.stack([log_probabilities(rows, tokens_of[c]) for c in episode.classes], dim=1)
        scores = scores - scores.mean(0)
        labels = slots(episode.query, scores.device)[None]
        accuracies.append(float((scores.argmax(-1) == labels[0]).float().mean()))
        losses.append(float(task_losses(scores[None], labels)))
    return Scores(np.array(accuracies), np.array(losses), {"prompt": experiment.config.template})


def label_words(class_name: str) -> str:
    """A class name as plain words: `card_arrival` → `card arrival`, `TurnOn-light` → `turn on light`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", class_name)
    return " ".join(re.sub(r"[^A-Za-z0-9']+", " ", spaced).lower().split())


def _label_tokens(experiment: Experiment, class_name: str) -> list[int]:
    tokenizer = experiment.encoder.backbone.tokenizer
    tokens: list[int] = tokenizer(" " + label_words(class_name), add_special_tokens=False)["input_ids"]
    return tokens


def _next_token_log_probabilities(experiment: Experiment, vectors: Tensor) -> Callable[[list[int], list[int]], Tensor]:
    """(rows, tokens) → mean log-probability `[rows]` of the tokens right after the prompt."""
    unembedding = experiment.language_model.model.get_output_embeddings()
    scores = torch.cat(
        [unembedding(part.to(unembedding.weight.dtype)) for part in vectors.split(UTTERANCES_PER_FORWARD)]
    )
    normaliser = scores.float().logsumexp(1)

    def mean_log_probability(rows: list[int], tokens: list[int]) -> Tensor:
        return scores[rows][:, tokens].float().mean(1) - normaliser[rows]

    return mean_log_probability


@torch.no_grad()
def frozen_features(experiment: Experiment, episodes: Sequence[Episode]) -> tuple[Tensor, dict[int, int]]:
    """Features of all utterances of the episodes, once each, and the row of each utterance."""
    used = np.unique(np.concatenate([np.concatenate([e.support.ravel(), e.query.ravel()]) for e in episodes]))
    parts = np.array_split(used, -(-len(used) // UTTERANCES_PER_FORWARD))
    encoder = experiment.encoder
    vectors = torch.cat([encoder.features(encoder.prepare([part]), None) for part in parts])
    return vectors, {int(u): row for row, u in enumerate(used)}


@dataclass(frozen=True)
class Baseline:
    """How a baseline is named in figures, what measures it, and what that costs."""

    label: str
    measure: Callable[[Experiment, Sequence[Episode]], Scores]
    work: Callable[[Config], tuple[int, int]]
    """Inner steps of a task and readings of a query set over all its tasks, at most; for estimates."""


def readings_only(config: Config) -> tuple[int, int]:
    return 0, config.num_meta_test_tasks


def _fine_tuning_work(n_tasks: int, steps: int) -> tuple[int, int]:
    return n_tasks * steps, n_tasks * READINGS_PER_TASK


def _no_meta_work(config: Config) -> tuple[int, int]:
    """With the adaptation curve."""
    steps, readings = _fine_tuning_work(config.num_meta_test_tasks, config.test_steps)
    curve_steps, curve_readings = curve_work(config)
    return steps + curve_steps, readings + curve_readings


def _tuning_work(config: Config) -> tuple[int, int]:
    """Every choice on the validation tasks, and the longest on the test tasks."""
    tried = len(TUNING_RATES) * sum(TUNING_STEPS) * config.test_steps * config.num_validation_tasks
    readings = len(TUNING_RATES) * len(TUNING_STEPS) * READINGS_PER_TASK * config.num_validation_tasks
    steps, test_readings = _fine_tuning_work(config.num_meta_test_tasks, max(TUNING_STEPS) * config.test_steps)
    return tried + steps, readings + test_readings


BASELINES = {
    "zero_step": Baseline(
        "chance: fresh head, no step", zero_step, lambda config: _fine_tuning_work(config.num_meta_test_tasks, 1)
    ),
    "zero_shot_labels": Baseline("zero-shot: the LM scores label words", zero_shot_labels, readings_only),
    "nearest_mean": Baseline("nearest class mean, frozen features", nearest_mean, readings_only),
    "no_meta": Baseline("fine-tuning, same inner loop", no_meta, _no_meta_work),
    "no_meta_tuned": Baseline("fine-tuning, tuned rate and steps", no_meta_tuned, _tuning_work),
}
