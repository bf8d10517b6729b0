"""GGUF through transformers, which reads a file's header four times and builds one table of names for every module."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache


@contextmanager
def read_once() -> Iterator[None]:
    """Inside the block a header is read once, a table built once: half of the seconds that a conversion takes.

    Both are only read by those who ask for them. Not for two threads at once.
    """
    import gguf

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in own.items():
        setattr(gguf, name, lru_cache(function))
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(gguf, name, function)
