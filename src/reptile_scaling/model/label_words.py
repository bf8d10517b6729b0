"""What a language model knows of a label: the words of its name, and the vectors it scores them with."""

import string
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.data.plain_words import plain_words
from reptile_scaling.errors import InputError
from reptile_scaling.model.backbone import Backbone

SYMBOLS = string.ascii_uppercase
MOST_SYMBOLS = len(SYMBOLS)

LabelVectors = Callable[[Sequence[Sequence[int]]], Tensor]
"""Classes of each task, in slot order → `[T, W, D]`."""


def label_tokens(tokenizer: Any, label: str) -> list[int]:
    """Token ids of a label as it stands after a blank. InputError for a label that has no word."""
    tokens: list[int] = tokenizer(" " + label, add_special_tokens=False)["input_ids"] if label else []
    if not tokens:
        raise InputError("a head of label words needs labels with words in them: set label_words to symbols")
    return tokens


def label_vectors_of(backbone: Backbone, class_names: Sequence[str], words: str) -> LabelVectors:
    """The vectors of the classes' names, or with `words = "symbols"` of one letter per slot, whichever its class.

    A label's vector is the mean unembedding row of its tokens, so its product with a prompt's feature is the mean of
    the LM's logits for them at the answer position.
    """
    if words == "symbols":
        letters_WD = _vectors(backbone, SYMBOLS)
        return lambda classes_of_task: letters_WD[: len(classes_of_task[0])].expand(len(classes_of_task), -1, -1)
    names_CD = _vectors(backbone, [plain_words(name) for name in class_names])
    return lambda classes_of_task: names_CD[torch.tensor(classes_of_task, device=names_CD.device)]


def _vectors(backbone: Backbone, labels: Sequence[str]) -> Float[Tensor, "labels D"]:
    unembedding = backbone.model.get_output_embeddings()
    if unembedding is None:
        raise InputError("a head of label words needs a language model's output embeddings: use another head or model")
    rows = unembedding.weight.detach()
    means = [rows[label_tokens(backbone.tokenizer, label)].float().mean(0) for label in labels]
    return torch.stack(means)
