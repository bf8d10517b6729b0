"""Meta-test: how well an initialisation adapts to the tasks of a fixed pool."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from reptile_scaling.adaptation import InnerLoop, adapt
from reptile_scaling.algorithms import ALGORITHMS
from reptile_scaling.config import Config
from reptile_scaling.examples import query_examples
from reptile_scaling.experiment import Experiment
from reptile_scaling.interruption import stop_if_requested
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import HEAD_WEIGHT, Adapters
from reptile_scaling.model.encoder import PromptEncoder
from reptile_scaling.model.heads import HEADS, logits, task_losses
from reptile_scaling.randomness import stream
from reptile_scaling.runs.records import Confusion, CurvePoint
from reptile_scaling.tasks import Episode, evaluation_pool
from reptile_scaling.work import Work

# Forwards of a task's query set in `evaluate`: after adaptation and before.
READINGS_PER_TASK = 2
CURVE_STEPS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class QueryLosses:
    """Figures per task, means over its query utterances; losses in nats per utterance."""

    loss: Float[np.ndarray, "T"]
    accuracy: Float[np.ndarray, "T"]
    zero_step_loss: Float[np.ndarray, "T"]
    zero_step_accuracy: Float[np.ndarray, "T"]
    predicted: Int[np.ndarray, "T Q"]
    """The slot given to each query utterance after adaptation, in the order of the query set."""


def training_loop(config: Config) -> InnerLoop:
    """The inner loop of meta-training."""
    algorithm = ALGORITHMS.get(config.algorithm)  # an adapter's may be one that was added elsewhere
    return InnerLoop(
        steps=config.k_inner,
        learning_rate=config.inner_lr,
        optimizer=config.inner_optimizer,
        batch_size=config.inner_batch_size,
        dropout=config.lora_dropout,
        head=config.head,
        adapts=algorithm.adapts if algorithm else "all",
    )


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


def evaluate(
    encoder: PromptEncoder,
    theta: Adapters,
    episodes: Sequence[Episode],
    loop: InnerLoop,
    moments: AdamMoments | None = None,
) -> QueryLosses:
    """Adapts θ to each episode's support set and reads its query set, before and after.

    Zero-step accuracy is read before any adaptation: above chance means that slots leak.
    """
    parts = []
    for start in range(0, len(episodes), encoder.tasks_in_flight):
        stop_if_requested()
        group = episodes[start : start + encoder.tasks_in_flight]
        stack = starting_points(encoder, theta, [episode.classes for episode in group], loop.head)
        own_moments = moments.repeated(len(group)) if moments is not None else None
        # Mini-batches belong to the test task alone, so every initialisation meets the same ones.
        rngs = [stream(start + i, "test_batches") for i in range(len(group))]
        adapted = adapt(encoder, stack, group, loop, rngs, moments=own_moments).adapters
        after, before = _query(encoder, adapted, group), _query(encoder, stack, group)
        parts.append((after[0], after[1], before[0], before[1], after[2]))
    return QueryLosses(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def adaptation_curve(
    encoder: PromptEncoder,
    theta: Adapters,
    episodes: Sequence[Episode],
    loop: InnerLoop,
    moments: AdamMoments | None = None,
) -> list[CurvePoint]:
    """Query loss and accuracy after 0 to 50 inner steps, means over the episodes: how fast θ adapts, and to what.

    Each number of steps is an adaptation of its own, so a point equals what `evaluate` gives for that loop.
    """
    points: list[CurvePoint] = []
    for steps in CURVE_STEPS:
        figures = evaluate(encoder, theta, episodes, replace(loop, steps=steps), moments)
        if not points:
            points.append(CurvePoint(0, float(figures.zero_step_loss.mean()), float(figures.zero_step_accuracy.mean())))
        points.append(CurvePoint(steps, float(figures.loss.mean()), float(figures.accuracy.mean())))
    return points


def curve_work(config: Config) -> Work:
    """What one adaptation curve takes."""
    n_tasks = min(config.num_validation_tasks, config.num_meta_test_tasks)
    return Work(inner_steps=n_tasks * sum(CURVE_STEPS), readings=n_tasks * len(CURVE_STEPS) * READINGS_PER_TASK)


def count_confusions(
    episodes: Sequence[Episode], predicted: Int[np.ndarray, "T Q"], class_names: Sequence[str]
) -> list[Confusion]:
    """How often query utterances of a class were taken for which class, over all episodes; pairs that occur."""
    counts: Counter[tuple[str, str]] = Counter()
    for episode, slots_Q in zip(episodes, predicted, strict=True):
        names = [class_names[c] for c in episode.classes]
        own = np.repeat(np.arange(len(names)), episode.query.shape[1])
        counts.update((names[truth], names[guess]) for truth, guess in zip(own, slots_Q, strict=True))
    return [Confusion(truth, guess, n) for (truth, guess), n in sorted(counts.items())]


def starting_points(
    encoder: PromptEncoder, theta: Adapters, classes_of_task: Sequence[Sequence[int]], head: str
) -> Adapters:
    """θ once per task `[T, …]`, under the head that a task starts from where θ's own is not kept."""
    if (reset := HEADS[head].reset) is not None:
        n_way, width = theta.tensors[HEAD_WEIGHT].shape
        theta = Adapters(theta.tensors | reset(n_way, width, theta.tensors[HEAD_WEIGHT].device))
    stack = theta.repeated(len(classes_of_task))
    if (from_words := HEADS[head].from_words) is not None:
        assert encoder.label_vectors is not None, "head label_words needs the classes' words"
        stack = Adapters(stack.tensors | from_words(encoder.label_vectors(classes_of_task)))
    return stack


Reading = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of a query set: loss `[T]`, accuracy `[T]`, predicted slots `[T, Q]`."""


def _query(encoder: PromptEncoder, adapters: Adapters, episodes: Sequence[Episode]) -> Reading:
    """Each task's query set under its own parameters."""
    encoder.remember(np.concatenate([episode.query.ravel() for episode in episodes]))
    shares = encoder.in_groups(lambda tasks: _read(encoder, adapters.rows(tasks), episodes[tasks]), len(episodes))
    losses, accuracies, predicted = zip(*shares, strict=True)
    return np.concatenate(losses), np.concatenate(accuracies), np.concatenate(predicted)


@torch.no_grad()
def _read(encoder: PromptEncoder, adapters: Adapters, episodes: Sequence[Episode]) -> Reading:
    query = query_examples(encoder, episodes)
    labels, scores = query.labels(), logits(adapters, query.features(adapters))
    predicted = scores.argmax(-1)
    correct = (predicted == labels).float().mean(1)
    losses = task_losses(scores, labels)
    return losses.double().cpu().numpy(), correct.double().cpu().numpy(), predicted.cpu().numpy()
