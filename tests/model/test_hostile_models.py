"""A model's folder from a stranger: nothing in it is executed, and what is refused is refused in one sentence."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from reptile_scaling.config import make_config
from reptile_scaling.errors import InputError
from reptile_scaling.model.loading import load_language_model

OWN_CODE = """
from pathlib import Path
Path({touched!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


class Touches:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def stranger(model_folder, tmp_path) -> Path:
    """A copy of a good model."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def load(folder: Path, settings: dict[str, object]) -> None:
    load_language_model(make_config({**settings, "model_name": str(folder)}), "cpu")


@pytest.mark.parametrize("model_type", ["own", "llama"])
def test_code_of_the_repository_is_not_executed(model_type: str, stranger, toy_settings, tmp_path) -> None:
    touched = tmp_path / "touched"
    (stranger / "own.py").write_text(OWN_CODE.format(touched=str(touched)))
    config = json.loads((stranger / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (stranger / "config.json").write_text(json.dumps({**config, "model_type": model_type, "auto_map": own}))
    if model_type == "own":
        with pytest.raises(InputError, match="cannot be loaded .*: check the name, or give a folder with a causal LM"):
            load(stranger, toy_settings)
    else:
        load(stranger, toy_settings)  # transformers knows the family, and takes its own code
    assert not touched.exists()


def test_attention_kernel_of_a_stranger_is_not_fetched(stranger, toy_settings) -> None:
    """CVE-2026-4372: transformers below 5.3 took this field from config.json, and ran what it names."""
    config = json.loads((stranger / "config.json").read_text())
    (stranger / "config.json").write_text(json.dumps({**config, "_attn_implementation_internal": "somebody/kernel"}))
    loaded = load_language_model(make_config({**toy_settings, "model_name": str(stranger)}), "cpu")
    assert "somebody" not in str(loaded.model.config._attn_implementation)


@pytest.mark.parametrize("claim", [{"num_hidden_layers": 1_000_000}, {"vocab_size": 2_000_000_000}])
def test_model_that_describes_more_than_it_has_is_refused_before_it_is_made(claim, stranger, toy_settings) -> None:
    config = json.loads((stranger / "config.json").read_text())
    (stranger / "config.json").write_text(json.dumps(config | claim))
    with pytest.raises(
        InputError, match=r"describes (1000000 layers: give|[\d,]{14,} parameters, .* bytes: copy its folder again)"
    ):
        load(stranger, toy_settings)


def test_pickle_alone_is_refused_unread(stranger, toy_settings, tmp_path) -> None:
    touched = tmp_path / "touched"
    for weights in stranger.glob("*.safetensors"):
        weights.unlink()
    (stranger / "pytorch_model.bin").write_bytes(pickle.dumps(Touches(touched)))
    with pytest.raises(InputError, match="cannot be loaded .*safetensors.*: check the name"):
        load(stranger, toy_settings)
    torch.save({"weight": Touches(touched)}, stranger / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load(stranger, toy_settings)
    assert not touched.exists()
