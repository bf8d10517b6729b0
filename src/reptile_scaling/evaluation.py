"""Meta-test: how well an initialisation adapts to the tasks of a fixed pool."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.adaptation import InnerLoop, adapt, slots, training_loop
from reptile_scaling.config import Config
from reptile_scaling.experiment import Experiment
from reptile_scaling.interruption import stop_if_requested
from reptile_scaling.model.adapters import HEAD_WEIGHT, Adapters
from reptile_scaling.model.encoder import PromptEncoder
from reptile_scaling.model.heads import fresh_head, logits, task_losses
from reptile_scaling.randomness import stream
from reptile_scaling.tasks import Episode, evaluation_pool

# Forwards of a task's query set in `evaluate`: after adaptation and before.
READINGS_PER_TASK = 2


@dataclass(frozen=True)
class QueryLosses:
    """Figures per task, means over its query utterances; losses in nats per utterance."""

    loss: Float[np.ndarray, "T"]
    accuracy: Float[np.ndarray, "T"]
    zero_step_accuracy: Float[np.ndarray, "T"]


def test_loop(config: Config) -> InnerLoop:
    """The inner loop of evaluation: as in training, but for its number of steps, and without dropout."""
    return replace(training_loop(config), steps=config.test_steps, dropout=0.0)


def test_episodes(experiment: Experiment) -> tuple[Episode, ...]:
    """The fixed test tasks, the same for every cell and baseline."""
    config, corpus = experiment.config, experiment.corpus
    return evaluation_pool(corpus.dataset, corpus.split.test, config, "test").episodes(config.num_meta_test_tasks)


def validation_episodes(experiment: Experiment) -> tuple[Episode, ...]:
    """The fixed tasks of the validation classes; all choices are made on these."""
    config, corpus = experiment.config, experiment.corpus
    pool = evaluation_pool(corpus.dataset, corpus.split.validation, config, "validation")
    return pool.episodes(config.num_validation_tasks)


def evaluate(encoder: PromptEncoder, theta: Adapters, episodes: Sequence[Episode], loop: InnerLoop) -> QueryLosses:
    """Adapts θ to each episode's support set and reads its query set, before and after.

    Zero-step accuracy is read before any adaptation: above chance means that slots leak.
    """
    parts = []
    for start in range(0, len(episodes), encoder.tasks_in_flight):
        stop_if_requested()
        group = episodes[start : start + encoder.tasks_in_flight]
        stack = starting_points(theta, len(group), loop.head)
        # Mini-batches belong to the test task alone, so every initialisation meets the same ones.
        rngs = [stream(start + i, "test_batches") for i in range(len(group))]
        adapted = adapt(encoder, stack, group, loop, rngs).adapters
        parts.append((*_query(encoder, adapted, group), _query(encoder, stack, group)[1]))
    loss, accuracy, zero_step = (np.concatenate(column) for column in zip(*parts, strict=True))
    return QueryLosses(loss, accuracy, zero_step)


def starting_points(theta: Adapters, n_tasks: int, head: str) -> Adapters:
    """θ once per task `[T, …]`; head `zero` starts every task from a head that knows nothing."""
    if head == "zero":
        n_way, width = theta.tensors[HEAD_WEIGHT].shape
        theta = Adapters(theta.tensors | fresh_head(n_way, width, theta.tensors[HEAD_WEIGHT].device))
    return theta.repeated(n_tasks)


def _query(
    encoder: PromptEncoder, adapters: Adapters, episodes: Sequence[Episode]
) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
    """Loss and accuracy of each task's query set under its own parameters."""
    encoder.remember(np.concatenate([episode.query.ravel() for episode in episodes]))
    shares = encoder.in_groups(lambda tasks: _read(encoder, adapters.rows(tasks), episodes[tasks]), len(episodes))
    losses, accuracies = zip(*shares, strict=True)
    return np.concatenate(losses), np.concatenate(accuracies)


@torch.no_grad()
def _read(
    encoder: PromptEncoder, adapters: Adapters, episodes: Sequence[Episode]
) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
    query = [episode.query for episode in episodes]
    labels = slots(query[0], encoder.backbone.device).expand(len(episodes), -1)
    features: Tensor = encoder.features(encoder.prepare(query), adapters).unflatten(0, (len(episodes), -1))
    scores = logits(adapters, features)
    correct = (scores.argmax(-1) == labels).float().mean(1)
    return task_losses(scores, labels).double().cpu().numpy(), correct.double().cpu().numpy()
