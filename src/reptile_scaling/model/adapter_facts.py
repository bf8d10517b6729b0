"""What an adapter must know to be loaded and adapted again: `adaptation.json`."""

from typing import Any

from reptile_scaling.config import Config

# What a configuration must say for an adapter to be loaded and adapted again.
FACT_KEYS = (
    "model_name", "model_revision", "dtype", "load_in_8bit", "load_in_4bit", "max_length", "template",
    "n_way", "k_support", "algorithm", "head", "label_words",
    "k_inner", "k_inner_test", "inner_lr", "inner_optimizer", "inner_batch_size",
    "lora_r", "lora_alpha", "lora_layers", "lora_targets",
)  # fmt: skip


def adaptation_facts(config: Config, labels: tuple[str, ...] | None = None) -> dict[str, Any]:
    """`adaptation.json`: the settings an adapter needs, and its labels once it is adapted to some."""
    settings = config.model_dump(mode="json")
    return {"config": {key: settings[key] for key in FACT_KEYS}, "labels": list(labels) if labels else None}
