"""Class split → task pool → episodes → packed tokens. No model, no torch.

A task is `n_way` classes in a drawn order (the order is the slots) and, where `task_examples` is fixed, its own
utterances. Task i of a pool depends on the pool's seed and i alone: the first 50 tasks are the first 50 of 1000.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from reptile_scaling.config import Config, FractionSplit
from reptile_scaling.datasets.banking77 import read_published_split
from reptile_scaling.datasets.dataset import IntentDataset, joined
from reptile_scaling.errors import InputError
from reptile_scaling.randomness import stream


@dataclass(frozen=True)
class ClassSplit:
    """Class indices of the three parts; no class is in two of them."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]

    def __post_init__(self) -> None:
        parts = (self.train, self.validation, self.test)
        assert len(set().union(*parts)) == sum(map(len, parts)), f"classes overlap in {parts}"


def split_classes(dataset: IntentDataset, config: Config) -> ClassSplit:
    """The published split by name, or a random one by fractions and seed.

    Raises InputError where a part has fewer classes than a task needs, or a published name is not in the data.
    """
    if isinstance(config.class_split, FractionSplit):
        split = _split_by_fractions(len(dataset.class_names), config.class_split)
    else:
        split = _published_split(dataset, config.class_split, config.data_dir)
    check_class_counts(dataset, split, config)
    return split


def split_across(source: IntentDataset, target: IntentDataset, config: Config) -> tuple[IntentDataset, ClassSplit]:
    """Both data sets as one, and its split: training and validation classes of the source, all classes of the target to
    test on, but for those of a name that the source has."""
    own = split_classes(source, config)
    known = {_folded(name) for name in source.class_names}
    shared = [name for name in target.class_names if _folded(name) in known]
    if len(target.class_names) - len(shared) < config.n_way:
        raise InputError(
            f"test_dataset {target.name!r} shares {len(shared)} of its {len(target.class_names)} classes with "
            f"{source.name!r}, which leaves fewer than n_way = {config.n_way}: choose another, or lower n_way"
        )
    both = joined(source, target, shared)
    split = ClassSplit(own.train, own.validation, tuple(range(len(source.class_names), len(both.class_names))))
    check_class_counts(both, split, config)
    note = f"{len(shared)} classes of {target.name} are in {source.name} too and are not tested on"
    return replace(both, notes=(*both.notes, note)) if shared else both, split


def _folded(class_name: str) -> str:
    """`Card_Arrival` and `card arrival` are one name."""
    return "".join(character for character in class_name.casefold() if character.isalnum())


def check_class_counts(dataset: IntentDataset, split: ClassSplit, config: Config) -> None:
    """Raises InputError if a part of the split has too few classes for a task, or fewer than are asked for."""
    for part in ("train", "validation", "test"):
        if (n_classes := len(getattr(split, part))) < config.n_way:
            raise InputError(
                f"n_way = {config.n_way}, but the {part} part of {dataset.name!r} has only {n_classes} of "
                f"{len(dataset.class_names)} classes: lower n_way or give class_split a larger share for it"
            )
    if config.n_classes is not None and not config.n_way <= config.n_classes <= len(split.train):
        raise InputError(
            f"n_classes = {config.n_classes} is not between n_way = {config.n_way} and the {len(split.train)} training "
            "classes of this split: choose a number there"
        )


def check_class_sizes(dataset: IntentDataset, config: Config) -> None:
    """Raises InputError if a class cannot fill the support and query set of one task."""
    needed = max(config.k_support, config.train_shots) + config.k_query
    sizes = [len(members) for members in dataset.utterances_by_class]
    smallest = int(np.argmin(sizes))
    if sizes[smallest] >= needed:
        return
    room = sizes[smallest] - (needed - config.k_query)
    cure = f"lower k_query to {room} or less" if room >= 1 else "lower k_support and k_query, or drop the class"
    raise InputError(
        f"k_support + k_query = {needed}, but class {dataset.class_names[smallest]!r} has "
        f"{sizes[smallest]} examples: {cure}"
    )


def _split_by_fractions(n_classes: int, split: FractionSplit) -> ClassSplit:
    order = stream(split.seed, "class_split").permutation(n_classes).tolist()
    n_train, n_validation = round(split.train * n_classes), round(split.validation * n_classes)
    first_test = n_train + n_validation
    return ClassSplit(tuple(order[:n_train]), tuple(order[n_train:first_test]), tuple(order[first_test:]))


def _published_split(dataset: IntentDataset, name: str, data_dir: str | None) -> ClassSplit:
    if dataset.name != "banking77":
        raise InputError(
            f"class_split {name!r} belongs to banking77, but dataset is {dataset.name!r}: "
            "use fractions such as {train: 0.6, validation: 0.15, seed: 0}"
        )
    index = {class_name: i for i, class_name in enumerate(dataset.class_names)}
    parts = read_published_split(name, Path(data_dir) if data_dir else None)
    for class_name in (class_name for names in parts.values() for class_name in names):
        if class_name not in index:
            raise InputError(
                f"class_split {name!r} names the class {class_name!r}, which the data does not have: "
                "use the original Banking77 labels"
            )
    listed = [class_name for names in parts.values() for class_name in names]
    for class_name in listed:
        if listed.count(class_name) > 1:
            raise InputError(
                f"class_split {name!r} lists the class {class_name!r} twice: keep it in one of train, valid and test"
            )
    return ClassSplit(*(tuple(index[name] for name in parts[part]) for part in ("train", "validation", "test")))


@dataclass(frozen=True)
class Episode:
    """Utterance indices of one visit to a task; row w holds the examples of slot w."""

    classes: tuple[int, ...]
    support: Int[np.ndarray, "n_way k_support"]
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

    def task_classes(self, task: int) -> tuple[int, ...]:
        """The classes of a task in slot order: drawn without replacement and never sorted."""
        rng = stream(self.seed, self.name, "classes", task)
        return tuple(int(c) for c in rng.permutation(self.classes)[: self.n_way])

    def episode(self, task: int, visit: int = 0) -> Episode:
        """The utterances of a visit to a task; with fixed examples every visit is the same."""
        classes = self.task_classes(task)
        rng = stream(self.seed, self.name, "utterances", task, visit if self.resampled else 0)
        members = self.dataset.utterances_by_class
        n_drawn = self.k_support + self.k_query
        drawn = np.stack([rng.choice(members[c], n_drawn, replace=False) for c in classes])
        return Episode(classes, drawn[:, : self.k_support], drawn[:, self.k_support :])

    def episodes(self, n_tasks: int) -> tuple[Episode, ...]:
        """The first visit of the first `n_tasks` tasks."""
        return tuple(self.episode(task) for task in range(n_tasks))


def training_pool(dataset: IntentDataset, split: ClassSplit, config: Config, seed: int) -> TaskPool:
    """The pool a seed's cells train on; the cell of N tasks uses the first N."""
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
        utterances.update(episode.support.ravel().tolist())
        if reads_query:
            utterances.update(episode.query.ravel().tolist())
    return Coverage(len(classes), len(utterances))


@dataclass(frozen=True)
class PackedTokens:
    """Prompts of many utterances laid end to end, tasks one after another, without padding.

    `token_ids[P]` and `positions[P]`; prompt s is `starts[s] : starts[s] + lengths[s]`, its features are read at
    its last token. Task t owns the prompts `prompt_offsets[t] : prompt_offsets[t + 1]`.
    """

    token_ids: Int[np.ndarray, "P"]
    positions: Int[np.ndarray, "P"]
    starts: Int[np.ndarray, "S"]
    lengths: Int[np.ndarray, "S"]
    utterances: Int[np.ndarray, "S"]
    prompt_offsets: Int[np.ndarray, "T_plus_1"]
    owner_of_task: Int[np.ndarray, "T"]
    """The cell a task belongs to, rising. Tasks of different cells share no product but the frozen ones, so a cell
    whose numbers turn to NaN leaves the others untouched."""

    @property
    def prompt_of_tokens(self) -> Int[np.ndarray, "P"]:
        """The prompt each token belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def token_offsets(self) -> list[int]:
        """Task t owns the tokens `token_offsets[t] : token_offsets[t + 1]`."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return [int(ends[offset]) for offset in self.prompt_offsets]


def pack_tokens(
    token_ids: Sequence[Sequence[int]],
    utterances_of_task: Sequence[Int[np.ndarray, "..."]],
    owner_of_task: Sequence[int] | None = None,
) -> PackedTokens:
    """Lays the prompts of each task's utterances end to end; `token_ids[u]` is the prompt of utterance u.

    Without `owner_of_task` all tasks belong to one cell.
    """
    utterances = np.concatenate([np.ravel(u) for u in utterances_of_task])
    prompts = [token_ids[u] for u in utterances.tolist()]
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    return PackedTokens(
        token_ids=np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in prompts]),
        positions=np.arange(lengths.sum()) - np.repeat(starts, lengths),
        starts=starts,
        lengths=lengths,
        utterances=utterances,
        prompt_offsets=np.cumsum([0, *(np.size(u) for u in utterances_of_task)]),
        owner_of_task=np.array(owner_of_task or [0] * len(utterances_of_task)),
    )
