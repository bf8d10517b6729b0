"""The tree of prompts and continuations against one forward of the Hub's own model per sentence."""

import numpy as np
import pytest
import torch

from reptile_scaling.model import continuations as module
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.continuations import continuation_scores
from reptile_scaling.model.loading import LanguageModel
from toy_models import tiny_model

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [5]]
BEGIN_ALIKE = [[2, 5, *prompt] for prompt in PROMPTS]
CONTINUATIONS = [[15], [16, 17, 18], [19, 20], [16, 17], [16, 21, 18], [16, 17, 18, 22]]


def slowly(model: torch.nn.Module, context: list[int], prompt: list[int], continuation: list[int]) -> float:
    """Mean log-probability of a continuation's tokens, the whole sentence by itself."""
    ids = torch.tensor([context + prompt + continuation])
    scores = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    first = len(context) + len(prompt) - 1
    return sum(float(scores[first + i, token]) for i, token in enumerate(continuation)) / len(continuation)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "qwen2", "mistral"])
@pytest.mark.parametrize("context", [[], [3, 4, 5, 6, 7]], ids=["zero-shot", "in-context"])
@pytest.mark.parametrize("prompts", [PROMPTS, BEGIN_ALIKE], ids=["apart", "alike"])
@torch.no_grad()
def test_tree_equals_sentence_by_sentence(family: str, context: list[int], prompts, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_FORWARD", 30)  # some prompts to a tree, more trees than one
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", 26)  # some prompts to a block, more blocks than one
    monkeypatch.setattr(module, "ROWS_PER_UNEMBEDDING", 3)
    model = LanguageModel(tiny_model(family, len(tokenizer)), tokenizer, family)
    twin = tiny_model(family, len(tokenizer))
    wanted = np.random.default_rng(0).random((len(prompts), len(CONTINUATIONS))) < 0.7
    assert wanted.any(1).all() and not wanted.all()
    found = continuation_scores(Backbone(model, LoraShape(4, 8.0, 1)), context, prompts, CONTINUATIONS, wanted)
    expected = [[slowly(twin, context, p, c) for c in CONTINUATIONS] for p in prompts]
    np.testing.assert_allclose(found, np.where(wanted, expected, np.nan), rtol=1e-4, atol=1e-4)
