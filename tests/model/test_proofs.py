"""A comparison that was made is not made again, and nothing that it hangs on can change unseen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_families import tiny_family

from reptile_scaling.model import backbone as module
from reptile_scaling.model import proofs
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.packing import pack_tokens

SHAPE = LoraShape(4, 8.0)


def opened(folder: Path, family: str = "llama", shape: LoraShape = SHAPE, digest: str = "a1") -> Backbone:
    return Backbone(replace(tiny_family(family), digest=digest), shape, proofs=folder)


def features_of(backbone: Backbone) -> torch.Tensor:
    prompts = pack_tokens([[3, 5, 8], [9, 4]], [np.array([0, 1])])
    return backbone.features(backbone.place(prompts))


@pytest.mark.parametrize("family", ["llama", "falcon", "llama4_text"])
def test_second_opening_compares_nothing_and_is_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path, the padded one, and one with layers that carry no LoRA."""
    first = opened(tmp_path, family)
    monkeypatch.setattr(module, "take_reference", lambda *_, **__: pytest.fail("compared again"))
    second = opened(tmp_path, family)
    assert second.attempts == first.attempts and second.as_json() == first.as_json()
    assert list(second.sites.items()) == list(first.sites.items())
    torch.testing.assert_close(features_of(second), features_of(first), rtol=0, atol=0)


def test_whatever_the_outcome_hangs_on_asks_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    take = module.take_reference
    monkeypatch.setattr(module, "take_reference", lambda *a, **k: asked.append(a) or take(*a, **k))

    def asks(**changed: object) -> bool:
        before = len(asked)
        opened(tmp_path, **changed)
        return len(asked) > before

    assert asks() and not asks()
    assert asks(digest="b2") and asks(family="qwen2")
    assert asks(shape=LoraShape(8, 8.0)) and asks(shape=LoraShape(4, 8.0, 1))
    with monkeypatch.context() as patched:
        patched.setattr(proofs.transformers, "__version__", "0")
        assert asks()
    with monkeypatch.context() as patched:
        patched.setattr(proofs, "_code_digest", lambda files: "edited")
        assert asks()
    assert not asks()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"attempts": [], "left_out": []}'])
def test_a_torn_proof_proves_nothing(damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path)
    (proof,) = tmp_path.iterdir()
    whole = proof.read_bytes()
    proof.write_bytes(damage)
    opened(tmp_path)
    assert proof.read_bytes() == whole, "compared and written anew"
    proof.write_bytes(whole.replace(b'"fast"', b'"fasT"'))
    opened(tmp_path)
    assert proof.read_bytes() == whole, "one flipped bit"


def test_weights_without_a_digest_are_compared_every_time(tmp_path: Path) -> None:
    opened(tmp_path, digest="")
    assert not list(tmp_path.iterdir())
