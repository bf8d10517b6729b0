"""Which classes are trained on, validated on and tested on; no class is in two parts."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reptile_scaling.config import Config, FractionSplit
from reptile_scaling.data.class_lists import read_class_lists
from reptile_scaling.data.dataset import IntentDataset, joined
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
    """The published split by name (see `class_lists`), or a random one by fractions and seed.

    Raises InputError where there are no class lists of that name, where they name a class that the data lacks, or
    where a part has fewer classes than a task needs.
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
    parts = read_class_lists(name, Path(data_dir) if data_dir else None)
    index = {class_name: i for i, class_name in enumerate(dataset.class_names)}
    seen: set[str] = set()
    for class_name in (class_name for names in parts.values() for class_name in names):
        if class_name not in index:
            raise InputError(
                f"class_split {name!r} names the class {class_name!r}, which {dataset.name!r} does not have: "
                "use the labels that the lists were made for, or mend the list"
            )
        if class_name in seen:
            raise InputError(
                f"class_split {name!r} lists the class {class_name!r} twice: keep it in one of train, valid and test"
            )
        seen.add(class_name)
    return ClassSplit(*(tuple(index[name] for name in parts[part]) for part in ("train", "validation", "test")))
