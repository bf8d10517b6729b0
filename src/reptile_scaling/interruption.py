"""Stopping when asked: the first signal lets the step in progress finish, the second stops at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, runtime_checkable

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what schedulers send before they kill


@runtime_checkable
class Flag(Protocol):
    """A threading or multiprocessing Event."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...


class StopRequested(KeyboardInterrupt):
    """Raised between steps, where everything is consistent and can be saved."""


_flag: Flag = threading.Event()


def share_flag(flag: Flag) -> None:
    """Lets a worker process follow its parent's flag; signals are then the parent's to handle."""
    global _flag
    _flag = flag
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to every process of the group


def stop_if_requested() -> None:
    """Raises StopRequested after a signal; called between steps."""
    if _flag.is_set():
        raise StopRequested


def request_stop() -> None:
    """As the first signal does."""
    _flag.set()


@contextmanager
def graceful_stop(flag: Flag) -> Iterator[None]:
    """Handles signals inside the block by setting `flag`; outside the main thread nothing changes."""
    global _flag
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _flag = flag

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()
        # A console may be locked by the very code that was interrupted.
        os.write(2, b"\nStopping after this step; once more stops at once.\n")

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _flag = threading.Event()
