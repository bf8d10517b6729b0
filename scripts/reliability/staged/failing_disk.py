"""A disk that refuses one call: stands in for `os` and `fcntl` in `reptile_scaling.disk`."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from reptile_scaling import disk

REFUSALS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOLCK, errno.ENOSYS, errno.ESTALE)
CALLS = ("open", "write", "fsync", "replace", "unlink", "mkdir", "flock")


@dataclass
class FailingDisk:
    """Counts the calls of the kinds in `CALLS`, and refuses one of them."""

    refused: int
    """Its place among all calls, from 0; beyond them none is."""
    error: int
    names: list[str] = field(default_factory=list)
    """Of the calls so far."""
    guard: Any = field(default_factory=threading.Lock)

    def counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any) -> Any:
            with self.guard:
                self.names.append(name)
                if len(self.names) == self.refused + 1:
                    raise OSError(self.error, os.strerror(self.error))
            return None if name == "fsync" else call(*arguments)  # nothing has to outlive this test

        return counted_call


@dataclass(frozen=True)
class _Module:
    """A module whose functions in `CALLS` are counted."""

    module: Any
    failing: FailingDisk

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        return self.failing.counted(name, found) if name in CALLS else found


@contextmanager
def failing(refused: int, error: int) -> Iterator[FailingDisk]:
    """Inside the block one call of `disk` is refused with an `errno`."""
    found = FailingDisk(refused, error)
    with patch.object(disk, "os", _Module(os, found)), patch.object(disk, "fcntl", _Module(fcntl, found)):
        yield found
