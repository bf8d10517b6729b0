"""Reptile (Nichol, Achiam & Schulman 2018, arXiv:1803.02999): move the initialisation towards adapted parameters."""

from reptile_scaling.model.adapters import Adapters


def reptile_update(theta: Adapters, adapted: Adapters, meta_lr: float) -> Adapters:
    """θ + meta_lr · mean over tasks of (φ_t − θ); leaves `[T, …]` in `adapted`, `[…]` in `theta`.

    The batched form of Algorithm 2. With T = 1 and meta_lr = 1 the result is φ. Tasks whose φ_t is not finite are
    the caller's to drop.
    """
    return theta.combine(adapted, lambda start, ends: start + meta_lr * (ends.mean(0) - start))
