"""Task pool → episodes: which classes and utterances a task has, and in which order a cell visits tasks.

A task is `n_way` classes in a drawn order (the order is the slots) and, where `task_examples` is fixed, its own
utterances. Task i of a pool depends on the pool's seed and i alone: the first 50 tasks are the first 50 of 1000. Where
`slots` is permuted, a cell meets a task with its classes in a fresh order at each visit, drawn from the cell's own
stream.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from reptile_scaling.config import Config
from reptile_scaling.data.class_split import ClassSplit
from reptile_scaling.data.dataset import IntentDataset
from reptile_scaling.randomness import stream


@dataclass(frozen=True)
class Episode:
    """Utterance indices of one visit to a task; row w holds the examples of slot w.

    A support row may end with the name of its class, at the place that it has in `IntentDataset.texts_with_names`.
    """

    classes: tuple[int, ...]
    support: Int[np.ndarray, "n_way per_class"]
    query: Int[np.ndarray, "n_way k_query"]


@dataclass(frozen=True)
class TaskPool:
    """Nested, deterministic tasks over some classes of a data set; `episode` draws one of them."""

    dataset: IntentDataset
    classes: tuple[int, ...]
    seed: int
    name: str
    n_way: int
    k_support: int
    k_query: int
    resampled: bool = False
    """Whether utterances are drawn anew at each visit."""
    slot_stream: str | None = None
    """The stream, a cell's own, that draws the slots of a visit; None keeps the task's own slots at every visit."""
    with_names: bool = False
    """Whether a class's name is one more support utterance of it, the last of its row."""

    def task_classes(self, task: int) -> tuple[int, ...]:
        """The classes of a task in the order of its own slots: drawn without replacement and never sorted."""
        rng = stream(self.seed, self.name, "classes", task)
        return tuple(int(c) for c in rng.permutation(self.classes)[: self.n_way])

    def episode(self, task: int, visit: int = 0) -> Episode:
        """The utterances of a visit to a task; with fixed examples they are the same at every visit.

        With a `slot_stream` the rows stand in an order of this visit's own, each still with its class.
        """
        classes = self.task_classes(task)
        rng = stream(self.seed, self.name, "utterances", task, visit if self.resampled else 0)
        members = self.dataset.utterances_by_class
        n_drawn = self.k_support + self.k_query
        drawn = np.stack([rng.choice(members[c], n_drawn, replace=False) for c in classes])
        if self.slot_stream is not None:
            order = stream(self.seed, "slots", self.slot_stream, task, visit).permutation(self.n_way)
            classes, drawn = tuple(classes[slot] for slot in order.tolist()), drawn[order]
        support, query = drawn[:, : self.k_support], drawn[:, self.k_support :]
        if self.with_names:
            support = np.column_stack([support, len(self.dataset.texts) + np.array(classes)])
        return Episode(classes, support, query)

    def episodes(self, n_tasks: int) -> tuple[Episode, ...]:
        """The first visit of the first `n_tasks` tasks."""
        return tuple(self.episode(task) for task in range(n_tasks))


def training_pool(
    dataset: IntentDataset, split: ClassSplit, config: Config, seed: int, cell: str | None = None
) -> TaskPool:
    """The pool a seed's cells train on; the cell of N tasks uses the first N.

    Without `cell`, the name of a cell's streams, tasks are as they are on their own: in their own slots.
    """
    classes = split.train
    if config.n_classes is not None:
        # Smaller choices are part of larger ones.
        drawn = stream(config.seed_train_base + seed, "training_classes").permutation(classes)
        classes = tuple(int(c) for c in drawn[: config.n_classes])
    return TaskPool(
        dataset=dataset,
        classes=classes,
        seed=config.seed_train_base + seed,
        name="train",
        n_way=config.n_way,
        k_support=config.train_shots,
        k_query=config.k_query,
        resampled=config.task_examples == "resampled",
        slot_stream=cell if config.slots == "permuted" else None,
        with_names=config.names_in_support,
    )


def evaluation_pool(dataset: IntentDataset, classes: tuple[int, ...], config: Config, name: str) -> TaskPool:
    """The fixed pool of validation or test tasks, the same for every cell and baseline."""
    return TaskPool(
        dataset=dataset,
        classes=classes,
        seed=config.seed_meta_test,
        name=name,
        n_way=config.n_way,
        k_support=config.k_support,
        k_query=config.k_query,
        with_names=config.names_in_support,
    )


def visiting_order(n_tasks: int, n_visits: int, seed: int, cell: str) -> Int[np.ndarray, "n_visits"]:
    """Tasks in the order a cell visits them: every task once per round, each round in a fresh order."""
    rng = stream(seed, "visits", cell)
    rounds = -(-n_visits // n_tasks)
    return np.concatenate([rng.permutation(n_tasks) for _ in range(rounds)])[:n_visits]


@dataclass(frozen=True)
class Coverage:
    """How much data N tasks really are."""

    distinct_classes: int
    distinct_utterances: int


def coverage(pool: TaskPool, order: Int[np.ndarray, "visits"], reads_query: bool = False) -> Coverage:
    """Classes and utterances trained on in the visits `order`, revisits counted once; query sets if read."""
    visits_so_far: dict[int, int] = {}
    classes: set[int] = set()
    utterances: set[int] = set()
    for task in order.tolist():
        visit = visits_so_far[task] = visits_so_far.get(task, -1) + 1
        if visit and not pool.resampled:
            continue
        episode = pool.episode(task, visit)
        classes.update(episode.classes)
        utterances.update(episode.support[:, : pool.k_support].ravel().tolist())
        if reads_query:
            utterances.update(episode.query.ravel().tolist())
    return Coverage(len(classes), len(utterances))
