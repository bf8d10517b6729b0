"""What a data set holds, in lines for a terminal."""

from math import comb, perm

import numpy as np

from reptile_scaling.data.class_split import ClassSplit
from reptile_scaling.data.dataset import IntentDataset
from reptile_scaling.data.duplicates import SIMILAR, near_duplicates

SHOWN_PAIRS = 3


def data_lines(dataset: IntentDataset, n_way: int, split: ClassSplit | None = None) -> list[str]:
    """Counts, the smallest and largest classes, what was left out, the number of distinct tasks, and utterances that
    nearly repeat one of another class, also across the parts of a split."""
    sizes = np.array([len(members) for members in dataset.utterances_by_class])
    order = np.argsort(sizes, kind="stable")
    n_classes = len(sizes)
    extremes = [f"{dataset.class_names[c]} ({sizes[c]})" for c in (*order[:3], *order[-3:])]
    return [
        f"{dataset.name}: {len(dataset.texts)} utterances in {n_classes} classes "
        f"({sizes.min()} to {sizes.max()} each, median {int(np.median(sizes))})",
        f"smallest and largest classes: {', '.join(extremes)}",
        *(f"note: {note}" for note in dataset.notes),
        f"distinct {n_way}-way class sets: {comb(n_classes, n_way):,}; with slot orders: {perm(n_classes, n_way):,}",
        *(
            f"  {share:.0%} of the classes for training: {_training_tasks(n_classes, share, n_way)}"
            for share in (0.3, 0.6)
        ),
        *_duplicate_lines(dataset, split),
        f"SHA-256 of all (label, text) pairs: {dataset.fingerprint}",
    ]


def _duplicate_lines(dataset: IntentDataset, split: ClassSplit | None) -> list[str]:
    pairs = near_duplicates(dataset)
    line = f"{len(pairs)} pairs of utterances of different classes share {SIMILAR:.0%} of their words or more"
    if split is not None:
        part_of = {c: part for part in ("train", "validation", "test") for c in getattr(split, part)}
        parts = [{part_of.get(int(dataset.labels[u])) for u in (pair.first, pair.second)} for pair in pairs]
        leaking = [p for p, both in zip(pairs, parts, strict=True) if len(both) == 2 and "test" in both]
        line += f"; of these {len(leaking)} lie across the split, one of them in a test class"
        pairs = leaking or pairs
    examples = (
        f"  {p.similarity:.0%}: {dataset.texts[p.first]!r} ({dataset.class_names[dataset.labels[p.first]]}) | "
        f"{dataset.texts[p.second]!r} ({dataset.class_names[dataset.labels[p.second]]})"
        for p in pairs[:SHOWN_PAIRS]
    )
    return [line, *examples]


def _training_tasks(n_classes: int, share: float, n_way: int) -> str:
    """How soon random tasks exhaust the classes: the expected number of tasks that touches 95 % of them."""
    n_train = round(share * n_classes)
    if n_train < n_way:
        return f"{n_train} classes, too few for one {n_way}-way task"
    missed = 1 - n_way / n_train
    n_tasks = 1 if missed == 0 else int(np.ceil(np.log(0.05) / np.log(missed)))
    return f"{n_train} classes, {comb(n_train, n_way):,} class sets; {n_tasks} random tasks touch 95 % of the classes"
