"""A base is known by what its files hold, not by what they are called."""

import os
from pathlib import Path

import pytest
import torch

from reptile_scaling.config import Config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.model import digest as module
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.digest import weights_digest
from reptile_scaling.model.heads import fresh_head
from reptile_scaling.model.loading import base_digest, load_language_model
from reptile_scaling.model.peft_io import check_base, save_adapter
from reptile_scaling.runs.directory import RunDirectory
from toy_models import tiny_model


def test_digest_is_of_the_content_and_of_nothing_else(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf"))
    one.write_bytes(b"weights"), same.write_bytes(b"weights"), other.write_bytes(b"wEights")
    digests = [weights_digest(path, tmp_path / "known") for path in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    first = weights_digest(tmp_path, tmp_path / "known")
    with monkeypatch.context() as patched:
        patched.setattr(module.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert weights_digest(tmp_path, tmp_path / "known") == first
    file.write_bytes(b"wEights")  # of the same name and size: a second fine-tune
    os.utime(file, (0, 0))
    assert weights_digest(tmp_path, tmp_path / "known") != first


def test_a_torn_note_is_read_past(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = weights_digest(tmp_path, tmp_path / "known")
    for note in (tmp_path / "known").iterdir():
        note.write_text('{"file": ')
    assert weights_digest(tmp_path, tmp_path / "known") == first


def test_loaded_model_says_what_it_is(tokenizer, tmp_path: Path) -> None:
    found = []
    for name, width in (("a", 32), ("b", 32), ("c", 16)):
        tiny_model("llama", len(tokenizer), width=width).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        config = make_config({"model_name": str(tmp_path / name), "dtype": "float32"})
        loaded = load_language_model(config, "cpu")
        assert loaded.digest == base_digest(config) != "" and loaded.revision is None
        found.append(loaded.digest)
    assert found[0] == found[1] != found[2]


def test_a_hub_model_that_was_never_downloaded_has_no_digest_yet() -> None:
    assert base_digest(make_config({"model_name": "nobody/never-downloaded"})) == ""


def test_an_adapter_is_refused_on_another_base_of_the_same_name(tokenizer, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_model("llama", len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    config = make_config({"model_name": str(base), "dtype": "float32"})

    def opened() -> Backbone:
        return Backbone(load_language_model(config, "cpu"), LoraShape(4, 8.0))

    backbone = opened()
    theta = Adapters(backbone.fresh_lora(torch.Generator()) | fresh_head(3, backbone.width, backbone.device))
    save_adapter(adapter, backbone, theta, str(base), {"config": {}, "labels": None})
    check_base(adapter, opened())
    other = tiny_model("llama", len(tokenizer))
    other.lm_head.weight += 1
    other.save_pretrained(base)
    os.utime(base / "model.safetensors", (0, 0))
    with pytest.raises(InputError, match=f"SHA-256 {backbone.digest[:12]}, and this one has .*: give --model the base"):
        check_base(adapter, opened())


def test_a_run_goes_on_with_its_own_base_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.begin(Config(), "f" * 64, {}, "")  # not downloaded yet
    run.begin(Config(), "f" * 64, {}, "a" * 64)
    run.begin(Config(), "f" * 64, {}, "")
    assert run.experiment().base_sha256 == "a" * 64
    with pytest.raises(InputError, match="another base called .*SHA-256 aaaaaaaaaaaa, now bbbbbbbbbbbb"):
        run.begin(Config(), "f" * 64, {}, "b" * 64)
