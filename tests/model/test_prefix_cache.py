"""Cached, bounded and read from disk: always the activations computed anew."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.engine import tokenize_prompts
from reptile_scaling.model.loading import LanguageModel
from reptile_scaling.model.packing import pack_tokens
from reptile_scaling.model.prefix_cache import PrefixCache
from toy_models import tiny_model


@pytest.fixture
def backbone(tokenizer) -> Backbone:
    return Backbone(LanguageModel(tiny_model("llama", len(tokenizer)), tokenizer, "tiny"), LoraShape(4, 8.0, 2))


@pytest.fixture
def token_ids(tokenizer, toy_dataset) -> list[list[int]]:
    return tokenize_prompts(tokenizer, toy_dataset.texts, "{text}", 32)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_bounded_cache_gives_what_is_computed_anew(share: float, backbone: Backbone, token_ids) -> None:
    n_bytes = sum(map(len, token_ids)) * 32 * 4
    cache = PrefixCache(backbone, token_ids, int(share * n_bytes))
    rng = np.random.default_rng(0)
    for _ in range(4):
        packed = pack_tokens(token_ids, [rng.choice(len(token_ids), 50, replace=False)])
        expected = backbone.entering_activations(backbone.place(packed))
        torch.testing.assert_close(cache.rows(packed), expected)
    assert cache.nbytes <= share * n_bytes


def test_later_run_reads_the_activations_from_disk(backbone: Backbone, token_ids, tmp_path: Path, monkeypatch) -> None:
    PrefixCache(backbone, token_ids).keep_on_disk(tmp_path / "cache")
    packed = pack_tokens(token_ids, [np.arange(20)])
    expected = backbone.entering_activations(backbone.place(packed))
    later = PrefixCache(backbone, token_ids)
    monkeypatch.setattr(backbone, "entering_activations", lambda _: pytest.fail("computed though on disk"))
    later.keep_on_disk(tmp_path / "cache")
    torch.testing.assert_close(later.rows(packed), expected)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_torn_file_is_written_again(backbone: Backbone, token_ids, tmp_path: Path) -> None:
    PrefixCache(backbone, token_ids).keep_on_disk(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    PrefixCache(backbone, token_ids).keep_on_disk(tmp_path)
    assert path.read_bytes() == whole


def test_other_weights_or_prompts_have_files_of_their_own(backbone: Backbone, token_ids) -> None:
    cache = PrefixCache(backbone, token_ids)
    fingerprints = {cache.fingerprint(), PrefixCache(backbone, token_ids[1:]).fingerprint()}
    next(backbone.frozen_weights_below()).mul_(1.01)
    assert len(fingerprints | {cache.fingerprint()}) == 3
