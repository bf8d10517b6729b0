"""GGUF through transformers, which reads a file's header up to four times and believes the lengths in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any


@contextmanager
def read_once() -> Iterator[None]:
    """Inside the block a header is read once and a table of names is built once: half of what a conversion takes.

    Both are only read by those who ask for them. A length that leads beyond the file is an error, where the package
    would read nothing until the memory is full. Not for two threads at once.
    """
    import gguf

    class WithinFile(gguf.GGUFReader):  # type: ignore[misc]
        def _get(self, offset: int, *others: Any, **named: Any) -> Any:
            if offset >= len(self.data):
                raise ValueError("a GGUF file that ends before its header does")
            return super()._get(offset, *others, **named)

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    gguf.GGUFReader, gguf.get_tensor_name_map = lru_cache(WithinFile), lru_cache(gguf.get_tensor_name_map)
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(gguf, name, function)
