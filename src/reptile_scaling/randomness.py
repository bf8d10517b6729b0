"""Named random streams: every draw belongs to a stream, no generator is global.

A stream depends on its name parts alone, so a cell draws the same episodes whatever runs beside it.
"""

import hashlib

import numpy as np


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """A generator of its own for `(seed, *name)`; equal arguments give equal draws on every machine."""
    return np.random.default_rng(stream_seed(seed, *name))


def stream_seed(seed: int, *name: str | int) -> int:
    """A 63-bit seed for libraries that seed their own generator."""
    text = "\x1f".join([str(seed), *map(str, name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
