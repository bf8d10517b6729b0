"""Seconds of several programs on a noisy machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Name = TypeVar("Name")


def interleaved_seconds(programs: Mapping[Name, Callable[[], object]], repeats: int) -> dict[Name, float]:
    """The median of each program's times, taken in turns so that a slow minute favours none."""
    times: dict[Name, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, run in programs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}
