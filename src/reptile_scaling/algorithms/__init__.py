"""Meta-learning algorithms by name. A new one is a file here and a line in META_UPDATES."""

from collections.abc import Callable

from reptile_scaling.algorithms.reptile import reptile_update
from reptile_scaling.model.adapters import Adapters

META_UPDATES: dict[str, Callable[[Adapters, Adapters, float], Adapters]] = {
    "reptile": reptile_update,
}
"""name → (θ `[…]`, adapted `[T, …]`, meta_lr) → new θ `[…]`."""
