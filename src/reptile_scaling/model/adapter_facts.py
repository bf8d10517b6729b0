"""What an adapter must know to be loaded and adapted again: `adaptation.json`."""

from typing import Any

from reptile_scaling.config import IN_ADAPTER, Config, keys_with


def adaptation_facts(config: Config, labels: tuple[str, ...] | None = None) -> dict[str, Any]:
    """`adaptation.json`: the settings an adapter needs, and its labels once it is adapted to some."""
    settings = config.model_dump(mode="json")
    return {"config": {key: settings[key] for key in keys_with(IN_ADAPTER)}, "labels": list(labels) if labels else None}
