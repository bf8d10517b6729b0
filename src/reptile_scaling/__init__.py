"""How few-shot performance of a language model scales with the number of meta-training tasks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reptile_scaling.api import RunRecord, load_experiment, run_experiment

__version__ = "0.1.0"
__all__ = ["RunRecord", "load_experiment", "run_experiment"]


def __getattr__(name: str) -> Any:
    """The Python API at first use: importing the package alone loads neither torch nor pandas."""
    if name in __all__:
        from reptile_scaling import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
