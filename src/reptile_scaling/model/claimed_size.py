"""Whether a model's configuration describes no more than its weights can fill: the rest would be random, and huge."""

from pathlib import Path
from typing import Any

import torch

from reptile_scaling.errors import InputError

MOST_LAYERS = 1000
"""Assumed: a few times the deepest language models there are. Each takes time to build, also without weights."""
PARAMETERS_PER_BYTE = 8
"""A bit each: less than any format packs them into that transformers reads (GGUF's IQ1_S: 1.6 bits)."""


def check_size(source: str, kind: Any, named: dict[str, Any]) -> None:
    """InputError for a local model that describes more parameters than its files have room for; `kind` builds it, and
    `named` are the options that say which file or revision is meant."""
    from transformers import AutoConfig

    place = Path(source)
    if not place.is_dir():
        return
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **named)
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if n_layers > MOST_LAYERS:
        raise InputError(f"model {source!r} describes {n_layers} layers: give a model of at most {MOST_LAYERS}")
    files = [place / named["gguf_file"]] if "gguf_file" in named else place.glob("*.safetensors")
    n_bytes = sum(file.stat().st_size for file in files)
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=False)
    n_numbers = sum(parameter.numel() for parameter in model.parameters())
    # Weights that are pickles are refused by their name, not for their size.
    if n_bytes and n_numbers > PARAMETERS_PER_BYTE * n_bytes:
        raise InputError(
            f"model {source!r} describes {n_numbers:,} parameters, and its weights are {n_bytes:,} bytes: copy its "
            "folder again from where it was"
        )
