"""Peak working memory of a call: what it needs beyond what is resident when it starts."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from reptile_scaling.model.devices import (
    held_memory,
    is_accelerator,
    peak_memory,
    reset_peak_memory,
    resident_bytes,
)

Result = TypeVar("Result")
SECONDS_BETWEEN_SAMPLES = 0.002


def with_peak_memory(run: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """What `run` returns, and the bytes it had in use at its peak beyond those in use before it.

    On an accelerator from its allocator. On the CPU the resident set is sampled every 2 ms, after freed heap has been
    handed back to the system; shorter peaks are missed.
    """
    if is_accelerator(device):
        reset_peak_memory(device)
        before = held_memory(device)
        result = run()
        return result, peak_memory(device) - before
    ctypes.CDLL(None).malloc_trim(0)
    before = peak = resident_bytes()
    finished = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not finished.wait(SECONDS_BETWEEN_SAMPLES):
            peak = max(peak, resident_bytes())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    result = run()
    finished.set()
    sampler.join()
    return result, max(peak, resident_bytes()) - before
