"""Meta-test: how well an initialisation adapts to the tasks of a fixed pool."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode, evaluation_pool
from reptile_scaling.interruption import stop_if_requested
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.examples import query_examples, slots
from reptile_scaling.learning.inner_loop import adapt
from reptile_scaling.learning.shared_features import shared_features
from reptile_scaling.learning.starts import starting_points
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS, logits, task_losses
from reptile_scaling.randomness import stream
from reptile_scaling.runs.records import Confusion

# Forwards of a task's query set in `evaluate` where it takes inner steps: after adaptation and before.
READINGS_PER_TASK = 2
BEFORE = -1
"""In place of a number of inner steps: before the support set is looked at, so without a head that it gives."""

StepsTaken = Callable[[int], None]
"""Hears of how many tasks each took an inner step, by any lane."""


@dataclass(frozen=True)
class Reading:
    """The query sets of T tasks after some inner steps, means over query utterances; losses in nats per utterance."""

    loss: Float[np.ndarray, "T"]
    accuracy: Float[np.ndarray, "T"]
    predicted: Int[np.ndarray, "T Q"]
    """The slot given to each query utterance, in the order of the query set."""
    confidence: Float[np.ndarray, "T Q"]
    """The probability that it was given with."""

    @classmethod
    def join(cls, shares: "Sequence[Reading]") -> "Reading":
        """Shares of the tasks, one after another."""
        columns = zip(*((r.loss, r.accuracy, r.predicted, r.confidence) for r in shares), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class QueryLosses:
    """A number of inner steps beside what knows no support set, per task."""

    before: Reading
    after: Reading

    @property
    def loss(self) -> Float[np.ndarray, "T"]:
        """After adaptation."""
        return self.after.loss

    @property
    def accuracy(self) -> Float[np.ndarray, "T"]:
        """After adaptation."""
        return self.after.accuracy

    @property
    def zero_step_loss(self) -> Float[np.ndarray, "T"]:
        """Before the support set is looked at."""
        return self.before.loss

    @property
    def zero_step_accuracy(self) -> Float[np.ndarray, "T"]:
        """Before the support set is looked at: above chance means that slots leak, but for a head that knows the
        classes."""
        return self.before.accuracy

    @property
    def predicted(self) -> Int[np.ndarray, "T Q"]:
        """After adaptation."""
        return self.after.predicted


def inner_optimizer(config: Config) -> str:
    """The name in INNER_OPTIMIZERS that `auto` stands for, or what is configured."""
    if config.inner_optimizer != "auto":
        return config.inner_optimizer
    algorithm = ALGORITHMS.get(config.algorithm)
    return "sgd" if algorithm and algorithm.differentiates_inner_loop else "adam"


def training_loop(config: Config) -> InnerLoop:
    """The inner loop of meta-training."""
    algorithm = ALGORITHMS.get(config.algorithm)  # an adapter's may be one that was added elsewhere
    return InnerLoop(
        steps=config.k_inner,
        learning_rate=config.inner_lr,
        optimizer=inner_optimizer(config),
        batch_size=config.inner_batch_size,
        dropout=config.lora_dropout,
        head=config.head,
        adapts=algorithm.adapts if algorithm else "all",
    )


def test_loop(config: Config) -> InnerLoop:
    """The inner loop of evaluation: as in training, but for its number of steps, and without dropout."""
    return replace(training_loop(config), steps=config.test_steps, dropout=0.0)


def test_episodes(workbench: Workbench) -> tuple[Episode, ...]:
    """The fixed test tasks, the same for every cell and baseline."""
    config, corpus = workbench.config, workbench.corpus
    return evaluation_pool(corpus.dataset, corpus.split.test, config, "test").episodes(config.num_meta_test_tasks)


def validation_episodes(workbench: Workbench) -> tuple[Episode, ...]:
    """The fixed tasks of the validation classes; all choices are made on these."""
    config, corpus = workbench.config, workbench.corpus
    pool = evaluation_pool(corpus.dataset, corpus.split.validation, config, "validation")
    return pool.episodes(config.num_validation_tasks)


@torch.no_grad()
def read_queries(engine: Engine, batch: TaskBatch, adapters: Adapters) -> Reading:
    """Each task's query set under its own parameters `[T, …]`."""
    query = query_examples(engine, batch)
    return _reading(adapters, query.features(adapters), query.labels_S)


def _reading(adapters: Adapters, features_TQD: Float[Tensor, "T Q D"], labels_Q: Int[Tensor, "Q"]) -> Reading:
    scores, labels = logits(adapters, features_TQD), labels_Q.expand(len(features_TQD), -1)
    confidence, predicted = scores.float().softmax(-1).max(-1)
    correct = (predicted == labels).float().mean(1)
    losses = task_losses(scores, labels)
    return Reading(
        losses.double().cpu().numpy(),
        correct.double().cpu().numpy(),
        predicted.cpu().numpy(),
        confidence.double().clamp(max=1.0).cpu().numpy(),
    )


def evaluate(
    engine: Engine,
    theta: Adapters,
    episodes: Sequence[Episode],
    loop: InnerLoop,
    moments: AdamMoments | None = None,
) -> QueryLosses:
    """Adapts θ to each episode's support set and reads its query set, before and after."""
    readings = read_along(engine, theta, episodes, loop, (BEFORE, loop.steps), moments)
    return QueryLosses(readings[BEFORE], readings[loop.steps])


def work_of_evaluations(config: Config, *, validations: int = 0, tests: int = 0) -> Work:
    """What `evaluate` does over the validation and test tasks, so many times each."""
    if config.test_steps == 0:
        return Work(validation_passes=validations, test_passes=tests)
    n_tasks = validations * config.num_validation_tasks + tests * config.num_meta_test_tasks
    return Work(inner_steps=n_tasks * config.test_steps, readings=n_tasks * READINGS_PER_TASK)


def read_along(
    engine: Engine,
    theta: Adapters,
    episodes: Sequence[Episode],
    loop: InnerLoop,
    steps: Sequence[int],
    moments: AdamMoments | None = None,
    told: StepsTaken | None = None,
) -> dict[int, Reading]:
    """Adapts θ to each episode's support set once and reads its query set after each number of `steps`.

    After 0 steps a task has the head that it starts from, computed from its support set where `loop.head` says so.
    What is read after s steps is what `evaluate` gives for a loop of s steps: `loop.steps` does not matter here.
    Without inner steps all tasks have θ's features, and each utterance's are computed once.
    """
    if max(steps) <= 0:
        return _read_unadapted(engine, theta, episodes, loop, steps)
    loop = replace(loop, steps=max(0, *steps))
    shares: list[dict[int, Reading]] = []
    for places in engine.groups(len(episodes)):
        stop_if_requested()
        group = episodes[places.start : places.stop]
        batch = TaskBatch(
            starting_points(engine, theta, [episode.classes for episode in group], loop.head),
            group,
            loop,
            # Mini-batches belong to the test task alone, so every initialisation meets the same ones.
            [stream(i, "test_batches") for i in places],
            moments=moments.repeated(len(group)) if moments is not None else None,
        )
        shares += _read_group(engine, batch, steps, told)
    return {step: Reading.join([share[step] for share in shares]) for step in steps}


@torch.no_grad()
def _read_unadapted(
    engine: Engine, theta: Adapters, episodes: Sequence[Episode], loop: InnerLoop, steps: Sequence[int]
) -> dict[int, Reading]:
    """`read_along` before a support set is looked at, and under the head that it gives."""
    features = shared_features(engine, (own for e in episodes for own in (e.support, e.query)), theta)
    shares: list[dict[int, Reading]] = []
    for start in range(0, len(episodes), engine.tasks_in_flight):
        group = episodes[start : start + engine.tasks_in_flight]
        own = starting_points(engine, theta, [episode.classes for episode in group], loop.head)
        support_TSD, query_TQD = (
            torch.stack([features.of(one) for one in part])
            for part in ([e.support for e in group], [e.query for e in group])
        )
        labels_S, labels_Q = (slots(one, query_TQD.device) for one in (group[0].support, group[0].query))
        found = {BEFORE: _reading(own, query_TQD, labels_Q)} if BEFORE in steps else {}
        if 0 in steps:
            if (head_from := HEADS[loop.head].from_support) is not None:
                own = Adapters(own.tensors | head_from(support_TSD, labels_S, len(group[0].classes)))
            found[0] = _reading(own, query_TQD, labels_Q)
        shares.append(found)
    return {step: Reading.join([share[step] for share in shares]) for step in steps}


def _read_group(
    engine: Engine, batch: TaskBatch, steps: Sequence[int], told: StepsTaken | None
) -> list[dict[int, Reading]]:
    """The query sets after each number of steps, of each share of the tasks."""
    engine.remember(batch.support_utterances())
    engine.remember(batch.query_utterances())

    def read(tasks: slice) -> dict[int, Reading]:
        own, found = batch.rows(tasks), {}
        if BEFORE in steps:
            found[BEFORE] = read_queries(engine, own, own.theta)

        def after_step(taken: int, phi: Adapters) -> None:
            if taken in steps:
                found[taken] = read_queries(engine, own, phi)
            if told is not None:
                told(len(own))

        adapt(engine, own, after_step)
        return found

    return engine.in_groups(read, len(batch))


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
