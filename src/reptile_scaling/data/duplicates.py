"""Utterances that nearly say the same under different labels: what a class split may leak, or labels may confuse."""

import re
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from reptile_scaling.data.dataset import IntentDataset

# Share of words in common (Jaccard) from which two utterances count as nearly the same.
SIMILAR = 0.8
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class NearDuplicate:
    """Two utterances of different classes."""

    first: int
    second: int
    similarity: float
    """Words in common over words in either; 1 for the same words in any order, case or punctuation."""


def near_duplicates(dataset: IntentDataset, least: float = SIMILAR) -> list[NearDuplicate]:
    """All pairs of utterances of different classes with at least this word overlap, most similar first."""
    words = [frozenset(re.findall(r"\w+", text.casefold())) for text in dataset.texts]
    index = {word: i for i, word in enumerate(sorted(frozenset().union(*words)))}
    rows = np.repeat(np.arange(len(words)), [len(own) for own in words])
    columns = [index[word] for own in words for word in sorted(own)]
    holds = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(words), max(1, len(index))))
    sizes = np.array([len(own) for own in words])
    found = []
    for start in range(0, len(words), ROWS_AT_ONCE):
        common = (holds[start : start + ROWS_AT_ONCE] @ holds.T).tocoo()
        first, second = common.coords[0] + start, common.coords[1]
        later = (first < second) & (dataset.labels[first] != dataset.labels[second])
        first, second, shared = first[later], second[later], common.data[later]
        similarity = shared / (sizes[first] + sizes[second] - shared)
        near = similarity >= least
        found += [
            NearDuplicate(int(a), int(b), float(s))
            for a, b, s in zip(first[near], second[near], similarity[near], strict=True)
        ]
    return sorted(found, key=lambda pair: (-pair.similarity, pair.first, pair.second))
