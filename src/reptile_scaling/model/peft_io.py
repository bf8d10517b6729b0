"""A meta-trained initialisation on disk, in PEFT's format: `PeftModel.from_pretrained` loads it as it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from reptile_scaling.errors import InputError
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_NAMES, HEAD_WEIGHT, LOG_RATE, LORA_A, LORA_B, Adapters
from reptile_scaling.model.backbone import Backbone
from reptile_scaling.storage import read_listed, seal, unseal, write_bytes, write_json

PEFT_PREFIX = "base_model.model."
PEFT_CONFIG = "adapter_config.json"
WEIGHTS, HEAD, FACTS = "adapter_model.safetensors", "head.safetensors", "adaptation.json"
COPY_AGAIN = "copy it again from where it was, or delete SHA256SUMS beside it if the change is yours"
MOMENTS, STEPS = "second_moments.safetensors", "steps"
RATES = "inner_rates.safetensors"
ADAPTER_FILES = (PEFT_CONFIG, WEIGHTS, HEAD, FACTS, MOMENTS, RATES)
"""All that `save_adapter` may write, their digests apart."""


def save_adapter(
    folder: Path,
    backbone: Backbone,
    theta: Adapters,
    base_model_name: str,
    facts: Mapping[str, object],
    moments: AdamMoments | None = None,
) -> None:
    """Writes adapter_config.json, adapter_model.safetensors, head.safetensors, adaptation.json and their digests.

    The head is the classifier `[n_way, D]` on the last token's features, and its scale where it has one; `facts` is
    what adapting and predicting with it need to know; the digest of the base's weights is added. `moments`, of an inner
    Adam that goes on from task to task, go into second_moments.safetensors, learned log-rates of the inner loop `[K]`
    into inner_rates.safetensors. PEFT itself reads none of these.
    """
    unseal(folder)
    settings = {"peft_type": "LORA", **_lora_settings(backbone, base_model_name)}
    write_json(folder / PEFT_CONFIG, settings)
    write_bytes(folder / WEIGHTS, safetensors.torch.save(_peft_state(theta), metadata={"format": "pt"}))
    head = {name: theta.tensors[name].cpu().contiguous() for name in HEAD_NAMES if name in theta.tensors}
    write_bytes(folder / HEAD, safetensors.torch.save(head))
    rates = {n: tensor.cpu().contiguous() for n, tensor in theta.tensors.items() if n.endswith(LOG_RATE)}
    if rates:
        write_bytes(folder / RATES, safetensors.torch.save(rates))
    if moments is not None:
        squares = {name: tensor.cpu().contiguous() for name, tensor in moments.squares.tensors.items()}
        write_bytes(folder / MOMENTS, safetensors.torch.save(squares | {STEPS: moments.steps.cpu()}))
    base = {"base_sha256": backbone.digest or None, "base_revision": backbone.revision}
    write_json(folder / FACTS, {**facts, **base})
    seal(folder)


def load_adapter(folder: Path, device: torch.device) -> Adapters:
    """The initialisation `[…]` in a folder that `save_adapter` wrote; InputError where it is not one."""
    for name in (WEIGHTS, HEAD):
        if not (folder / name).is_file():
            raise InputError(
                f"adapter folder {str(folder)!r} has no {name}: give the adapter/ folder of a finished cell"
            )
    tensors = {}
    for key, tensor in _read(folder / WEIGHTS).items():
        site, _, factor = key.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".")
        tensors[f"{site}.{factor}"] = tensor.to(device)
    head = _read(folder / HEAD)
    if not {HEAD_WEIGHT, HEAD_BIAS} <= head.keys() <= set(HEAD_NAMES):
        raise InputError(f"{str(folder / HEAD)!r} holds {', '.join(head) or 'nothing'}: give a cell's adapter/ folder")
    rates = _read(folder / RATES) if (folder / RATES).is_file() else {}
    return Adapters(tensors | {name: tensor.to(device) for name, tensor in (head | rates).items()})


def load_moments(folder: Path, device: torch.device) -> AdamMoments | None:
    """What `save_adapter` wrote of the inner Adam; None where every task starts afresh."""
    if not (folder / MOMENTS).is_file():
        return None
    tensors = {name: tensor.to(device) for name, tensor in _read(folder / MOMENTS).items()}
    if STEPS not in tensors or len(tensors) < 2:
        raise InputError(f"{str(folder / MOMENTS)!r} holds no {STEPS} and squares: copy it again from where it was")
    steps = tensors.pop(STEPS)
    return AdamMoments(Adapters(tensors), steps)


def read_facts(folder: Path) -> dict[str, Any]:
    """What `save_adapter` wrote beside the weights; InputError where there is nothing."""
    if not (folder / FACTS).is_file():
        raise InputError(
            f"adapter folder {str(folder)!r} has no {FACTS}: give the adapter/ folder of a cell that this version "
            "finished, or the --out of `adapt`"
        )
    try:
        facts: Any = json.loads(read_listed(folder / FACTS, COPY_AGAIN) or b"")
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(folder / FACTS)!r} is not whole ({error}): copy it again from where it was") from error
    if not (isinstance(facts, dict) and isinstance(facts.get("config"), dict) and _are_labels(facts.get("labels", 0))):
        raise InputError(f"{str(folder / FACTS)!r} names no config and labels: copy it again from where it was")
    return facts


def _are_labels(found: object) -> bool:
    """None in an initialisation, which has none yet."""
    return found is None or (isinstance(found, list) and all(isinstance(label, str) for label in found))


def check_base(folder: Path, backbone: Backbone) -> None:
    """InputError where an adapter was trained on other weights than these, whatever they are called."""
    recorded = read_facts(folder).get("base_sha256")
    if recorded and backbone.digest and recorded != backbone.digest:
        raise InputError(
            f"adapter {str(folder)!r} was trained on a base with SHA-256 {recorded[:12]}, and this one has "
            f"{backbone.digest[:12]}: give --model the base it was trained on"
        )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(read_listed(path, COPY_AGAIN) or b"")
    except (safetensors.SafetensorError, KeyError) as error:
        raise InputError(f"{str(path)!r} is not whole ({error}): copy it again, or train the cell anew") from error
    return tensors


def lora_config(backbone: Backbone, base_model_name: str) -> Any:
    """PEFT's description of the backbone's LoRA, site by site."""
    from peft import LoraConfig

    return LoraConfig(**_lora_settings(backbone, base_model_name))


def _lora_settings(backbone: Backbone, base_model_name: str) -> dict[str, Any]:
    """Those that differ from PEFT's defaults, or would not be safe to leave to them. Importing PEFT to write them would
    take longer than writing an adapter."""
    return {
        "task_type": "FEATURE_EXTRACTION" if backbone.is_encoder else "CAUSAL_LM",
        "base_model_name_or_path": base_model_name,
        "r": backbone.lora.rank,
        "lora_alpha": backbone.lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": backbone.has_transposed_weights,
        "target_modules": sorted(backbone.sites),
        "inference_mode": True,
    }


def _peft_state(theta: Adapters) -> dict[str, Tensor]:
    return {
        f"{PEFT_PREFIX}{name}.weight": tensor.cpu().contiguous()
        for name, tensor in theta.tensors.items()
        if name.endswith((LORA_A, LORA_B))
    }
