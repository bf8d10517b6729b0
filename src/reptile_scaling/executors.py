"""Jobs over devices. Knows no training: a job is anything a worker can perform."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Perform = Callable[[Job], None]


def map_devices(make_worker: Callable[[str], Perform[Job]], jobs: Sequence[Job], devices: Sequence[str]) -> None:
    """Performs every job once, each device taking the next one when it is free.

    `make_worker(device)` runs once per device and returns what performs a job there. One device works in this
    process; several get a process each, so `make_worker` and the jobs must then be picklable. A worker records the
    outcome of its jobs itself; whatever it raises ends the sweep.
    """
    if len(devices) == 1:
        perform = make_worker(devices[0])
        for job in jobs:
            perform(job)
        return
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    for job in jobs:
        queue.put(job)
    for _ in devices:
        queue.put(None)
    workers = [context.Process(target=_work, args=(make_worker, device, queue)) for device in devices]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()


def _work(
    make_worker: Callable[[str], Perform[Job]], device: str, queue: "multiprocessing.SimpleQueue[Job | None]"
) -> None:
    perform = make_worker(device)
    while (job := queue.get()) is not None:
        perform(job)
