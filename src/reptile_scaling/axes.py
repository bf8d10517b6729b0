"""What a sweep can vary: the x-axis of its law. A new axis is a key of the configuration and a line here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """How an axis is called, and what its levels share."""

    symbol: str
    """Before a level's value: `N = 50`."""
    name: str
    """In a sentence: falls as a power of `name`."""
    label: str
    """Under a figure."""
    shares_tests: bool = True
    """Whether every level meets the same test tasks in the same way, so that all stand beside the baselines."""
    shares_model: bool = True
    """Whether all levels adapt the same parameters of the same model."""


AXES = {
    "n_tasks": Axis("N", "N_tasks", "meta-training tasks, N"),
    "n_classes": Axis("C", "the number of training classes", "training classes, C"),
    "k_support": Axis("K", "the number of shots", "support utterances per class, K", shares_tests=False),
    "k_inner": Axis("steps", "the number of inner steps", "inner steps", shares_tests=False),
    "lora_r": Axis("r", "the LoRA rank", "LoRA rank, r", shares_tests=False, shares_model=False),
    "model_name": Axis(
        "parameters", "the number of parameters", "parameters of the model", shares_tests=False, shares_model=False
    ),
}
