"""Cached, bounded and read from disk: always the activations computed anew."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from staged.failing_disk import failing
from staged.recorded_disk import recorded

from reptile_scaling.model import prefix_cache, prefix_store
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.engine import tokenize_prompts
from reptile_scaling.model.loading import LanguageModel
from reptile_scaling.model.packing import pack_tokens
from reptile_scaling.model.prefix_cache import PrefixCache
from reptile_scaling.model.prefix_store import PrefixStore
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
    monkeypatch.setattr(prefix_cache, "TOKENS_PER_PART", 1)
    first = PrefixCache(backbone, token_ids)
    first.share(tmp_path)
    first.fill(np.arange(len(token_ids)))
    packed = pack_tokens(token_ids, [np.arange(20)])
    expected = backbone.entering_activations(backbone.place(packed))
    later = PrefixCache(backbone, token_ids[::-1])  # the same prompts in another data set
    monkeypatch.setattr(backbone, "entering_activations", lambda _: pytest.fail("computed though on disk"))
    later.share(tmp_path)
    numbers = len(token_ids) - 1 - np.arange(20)
    torch.testing.assert_close(later.rows(pack_tokens(token_ids[::-1], [numbers])), expected)


def test_bounded_cache_takes_what_fits_from_disk(backbone: Backbone, token_ids, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prefix_cache, "TOKENS_PER_PART", 1)
    first = PrefixCache(backbone, token_ids)
    first.share(tmp_path)
    first.fill(np.arange(0, 60))
    first.fill(np.arange(60, 144))
    later = PrefixCache(backbone, token_ids, 300 * 32 * 4)
    later.share(tmp_path)
    packed = pack_tokens(token_ids, [np.arange(40, 80)])
    torch.testing.assert_close(later.rows(packed), backbone.entering_activations(backbone.place(packed)))


def one_byte_changed(content: bytes) -> bytes:
    return content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]


def unsealed(content: bytes) -> bytes:
    """As parts were before they had seals."""
    return save(load(content))


@pytest.mark.parametrize("damage", [lambda content: content[:-100], one_byte_changed, unsealed])
def test_damaged_part_is_computed_again(damage, backbone: Backbone, token_ids, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prefix_cache, "TOKENS_PER_PART", 1)
    first = PrefixCache(backbone, token_ids)
    first.share(tmp_path)
    first.fill(np.arange(50))
    (part,) = tmp_path.rglob("*.safetensors")
    part.write_bytes(damage(part.read_bytes()))
    later = PrefixCache(backbone, token_ids)
    later.share(tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    packed = pack_tokens(token_ids, [np.arange(50)])
    torch.testing.assert_close(later.rows(packed), backbone.entering_activations(backbone.place(packed)))


def test_much_is_written_in_parts_of_whole_prompts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prefix_store, "BYTES_PER_PART", 100)
    store, hidden_PD = PrefixStore(tmp_path / "a"), torch.arange(80.0).view(10, 8)  # 32 bytes a token
    store.write([5, 6, 7, 8], [2, 3, 1, 4], hidden_PD)
    found = {keys[0]: rows_PD for key in (5, 6, 7, 8) for keys, rows_PD in store.read({key})}
    for key, rows in {5: slice(0, 2), 6: slice(2, 5), 7: slice(5, 6), 8: slice(6, 10)}.items():
        torch.testing.assert_close(found[key], hidden_PD[rows])
    assert len(list(store.folder.iterdir())) == 4 - 1  # ends at 64, 160, 192 and 320 bytes: hundreds 0, 1, 1 and 3


def test_disk_that_refuses_costs_time_alone(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path / "a")
    with recorded(tmp_path) as recording:
        store.write([1], [2], torch.zeros(2, 8))
    assert [call.name for call in recording.calls].count("fsync") >= 2  # the part, and its folder
    for place in range(20):
        with failing(place, errno.ENOSPC) as disk:
            PrefixStore(tmp_path / str(place)).write([1], [2], torch.zeros(2, 8))
        for part in tmp_path.glob(f"{place}/*.safetensors"):
            assert list(PrefixStore(part.parent).read({1})), disk.names


def test_states_unused_for_longest_go_first(tmp_path: Path) -> None:
    stores = [PrefixStore(tmp_path / name, most_bytes=19_000) for name in "abc"]
    for age, store in enumerate(stores[:2]):
        store.write([1], [2], torch.zeros(2, 800))
        os.utime(store.folder, (age, age))
    assert len(list(stores[0].read({1}))) == 1  # used, so no longer the oldest
    stores[2].write([1], [2], torch.zeros(2, 800))
    assert [store.folder.is_dir() for store in stores] == [True, False, True]
    stores[2].write([2], [9], torch.zeros(9, 800))  # more than all of the limit
    assert [key for keys, _ in stores[2].read({1, 2}) for key in keys] == [1]


def test_other_weights_and_layers_are_states_of_their_own(backbone: Backbone, token_ids) -> None:
    cache = PrefixCache(backbone, token_ids)
    fingerprints = {cache.fingerprint()}
    next(backbone.frozen_weights_below()).mul_(1.01)
    fingerprints.add(cache.fingerprint())
    backbone.digest = "of its files"
    assert len(fingerprints | {cache.fingerprint()}) == 3


def test_lanes_and_small_forwards_give_the_same_and_tell_of_progress(backbone, token_ids, monkeypatch) -> None:
    packed = pack_tokens(token_ids, [np.arange(len(token_ids))])
    expected = backbone.entering_activations(backbone.place(packed))
    monkeypatch.setattr(prefix_cache, "TOKENS_PER_FORWARD", 50)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        told: list[tuple[int, int]] = []
        cache = PrefixCache(backbone, token_ids, told=lambda *counts: told.append(counts))
        cache.fill(packed.utterances)
        torch.testing.assert_close(cache.rows(packed), expected)
    finally:
        torch.set_num_threads(before)
    assert told[0] == (0, 0) and min(told[1:]) > (0, 0) and len(told) > 5
    assert np.sum(told, axis=0).tolist() == [len(token_ids), len(expected)]
