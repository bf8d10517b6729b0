"""What every data set becomes: utterances with class names."""

import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int

from reptile_scaling.data.plain_words import plain_words
from reptile_scaling.errors import InputError


@dataclass(frozen=True)
class IntentDataset:
    """Utterances `texts[u]` with labels `class_names[labels[u]]`; texts are distinct."""

    name: str
    texts: tuple[str, ...]
    labels: Int[np.ndarray, "utterances"]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What reading left out, in plain words."""

    @cached_property
    def utterances_by_class(self) -> tuple[Int[np.ndarray, "_"], ...]:
        """Utterance indices of each class."""
        return tuple(np.flatnonzero(self.labels == c) for c in range(len(self.class_names)))

    @cached_property
    def texts_with_names(self) -> tuple[str, ...]:
        """All texts and behind them the classes' names in plain words, that of class c at `len(texts) + c`.

        Raises InputError for a name without a word.
        """
        names = tuple(plain_words(name) for name in self.class_names)
        if "" in names:
            nameless = self.class_names[names.index("")]
            raise InputError(
                f"class {nameless!r} has no word in its name: give it one, or set names_in_support to false"
            )
        return self.texts + names

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all (label, text) pairs: equal data has an equal fingerprint."""
        digest = hashlib.sha256()
        for label, text in zip(self.labels, self.texts, strict=True):
            digest.update(f"{self.class_names[label]}\x1f{text}\x1e".encode())
        return digest.hexdigest()


def joined(first: IntentDataset, second: IntentDataset, left_out: Container[str]) -> IntentDataset:
    """Both, the first's classes first and numbered as they were; without `left_out` classes of the second and without
    texts of it that the first has."""
    known = set(first.texts)
    rows = [
        (text, second.class_names[c])
        for text, c in zip(second.texts, second.labels, strict=True)
        if text not in known and second.class_names[c] not in left_out
    ]
    added = make_dataset(second.name, rows)
    n_shared = sum(text in known for text in second.texts)
    notes = [f"{n_shared} utterances of {second.name} are in {first.name} too and are left out"] if n_shared else []
    return IntentDataset(
        f"{first.name} → {second.name}",
        first.texts + added.texts,
        np.concatenate([first.labels, added.labels + len(first.class_names)]),
        first.class_names + added.class_names,
        (*first.notes, *second.notes, *notes),
    )


def without_small_classes(dataset: IntentDataset, least: int) -> IntentDataset:
    """Without the classes that have fewer than `least` utterances; InputError when none is left."""
    sizes = [len(members) for members in dataset.utterances_by_class]
    small = [name for name, size in zip(dataset.class_names, sizes, strict=True) if size < least]
    if not small:
        return dataset
    if len(small) == len(sizes):
        raise InputError(f"min_class_size = {least} leaves no class of {dataset.name!r}: lower it")
    rows = [(t, dataset.class_names[c]) for t, c in zip(dataset.texts, dataset.labels, strict=True)]
    kept = make_dataset(dataset.name, [row for row in rows if row[1] not in small])
    note = f"{len(small)} classes with fewer than {least} utterances are left out"
    return replace(kept, notes=(*dataset.notes, note))


def make_dataset(name: str, rows: Iterable[tuple[str, str]]) -> IntentDataset:
    """An IntentDataset from (text, class name) rows.

    White space is folded. A text that occurs twice in a class is kept once; one that carries two labels is
    left out, since no slot would be right for it. Raises InputError when nothing is left.
    """
    labels_of: dict[str, set[str]] = {}
    n_rows = 0
    for text, label in rows:
        n_rows += 1
        labels_of.setdefault(" ".join(text.split()), set()).add(label.strip())
    pairs = [(text, next(iter(labels))) for text, labels in labels_of.items() if text and len(labels) == 1]
    if not pairs:
        raise InputError(f"data set {name!r} holds no usable utterance: give it rows with a text and a label")
    n_ambiguous = sum(len(labels) > 1 for labels in labels_of.values())
    notes = []
    if n_ambiguous:
        notes.append(f"{n_ambiguous} utterances carry two labels and are left out")
    if (repeats := n_rows - sum(map(len, labels_of.values()))) > 0:
        notes.append(f"{repeats} rows repeat an utterance and are left out")
    class_names = tuple(sorted({label for _, label in pairs}))
    index = {label: i for i, label in enumerate(class_names)}
    labels = np.array([index[label] for _, label in pairs], dtype=np.int64)
    return IntentDataset(name, tuple(text for text, _ in pairs), labels, class_names, tuple(notes))
