"""Jobs over devices of this machine. Knows no training: a job is anything a worker can perform.

The CPU alone works in this process. Otherwise each device has a process; one that dies is replaced and its job goes
back into the queue, so a crash costs what the job had not yet saved.
"""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from reptile_scaling.errors import InputError
from reptile_scaling.interruption import Flag, StopRequested, share_flag
from reptile_scaling.lab.executors.executor import ATTEMPTS, Assignment, Job, MakeWorker, Queued


def worker_names(devices: Sequence[str]) -> list[str]:
    """A name for each device's worker, good for a file: `cuda_0`, and `cpu-1`, `cpu-2` where one is listed twice."""
    names = []
    for i, device in enumerate(devices):
        number = f"-{devices[: i + 1].count(device)}" if devices.count(device) > 1 else ""
        names.append(device.replace(":", "_") + number)
    return names


def on_this_machine(assignment: Assignment[Job]) -> None:
    """As `Executor` says, on `assignment.devices`; a job that has killed `ATTEMPTS` workers is given up."""
    names, devices = worker_names(assignment.devices), assignment.devices
    if list(devices) == ["cpu"]:
        perform = assignment.make_worker(assignment.folder, names[0], devices[0])
        try:
            for job in assignment.jobs:
                perform(job)
        finally:
            perform.close()
        return
    pool = _Pool(assignment, deque(map(Queued, assignment.jobs)))
    pool.run(list(zip(names, devices, strict=True)))


@dataclass
class _Remote(Generic[Job]):
    """A worker process and what it is doing."""

    name: str
    device: str
    process: Any
    connection: Any
    queued: Queued[Job] | None = None


@dataclass
class _Pool(Generic[Job]):
    """Worker processes over a queue."""

    assignment: Assignment[Job]
    queue: deque[Queued[Job]]
    remotes: list[_Remote[Job]] = field(default_factory=list)
    idle_deaths: dict[str, int] = field(default_factory=dict)
    """Deaths of a device's workers without a finished job between them."""

    def run(self, places: Sequence[tuple[str, str]]) -> None:
        context, stop = _context(self.assignment), self.assignment.stop
        shared = context.Event()
        try:
            for name, device in places[: len(self.queue)]:
                self.remotes.append(self._start(context, name, device, shared))
            while self.remotes:
                if stop.is_set():
                    shared.set()
                for remote in self.remotes:
                    self._feed(remote, stop)
                self._listen(context, shared, stop)
            if stop.is_set():
                raise StopRequested
            for queued in self.queue:  # every device has been given up
                self.assignment.give_up(queued.job, "no worker is left: their processes died again and again")
        finally:
            for remote in self.remotes:
                remote.process.terminate()
                remote.process.join()

    def _start(self, context: Any, name: str, device: str, shared: Flag) -> _Remote[Job]:
        ours, theirs = context.Pipe()
        make_worker, folder = self.assignment.make_worker, self.assignment.folder
        process = context.Process(target=_work, args=(make_worker, folder, name, device, theirs, shared), daemon=True)
        process.start()
        theirs.close()
        return _Remote(name, device, process, ours)

    def _feed(self, remote: _Remote[Job], stop: Flag) -> None:
        """Gives an idle worker its next job, or sends it home."""
        if remote.queued is not None or remote.connection.closed:
            return
        queued = self.queue.popleft() if self.queue and not stop.is_set() else None
        # A job that is being done may come back, so idle workers wait until none is.
        if queued is None and not stop.is_set() and any(r.queued is not None for r in self.remotes):
            return
        try:
            remote.connection.send(queued.job if queued else None)
        except (BrokenPipeError, ConnectionResetError):
            if queued:
                self.queue.appendleft(queued)
            return
        remote.queued = queued
        if queued is None:
            remote.connection.close()

    def _listen(self, context: Any, shared: Flag, stop: Flag) -> None:
        """Waits for news of any worker, at most a second."""
        handles = {r.process.sentinel: r for r in self.remotes}
        handles |= {r.connection: r for r in self.remotes if not r.connection.closed}
        heard = {id(r): r for h in multiprocessing.connection.wait(list(handles), timeout=1.0) for r in [handles[h]]}
        for remote in heard.values():
            try:
                message = remote.connection.recv() if not remote.connection.closed else None
            except (EOFError, ConnectionResetError):
                message = None
            if message == "done":
                remote.queued, self.idle_deaths[remote.name] = None, 0
            elif message is not None:
                raise InputError(message)
            elif not remote.process.is_alive() or remote.process.join(5.0) is None:
                self._bury(remote, context, shared, stop)

    def _bury(self, remote: _Remote[Job], context: Any, shared: Flag, stop: Flag) -> None:
        """A worker has ended: sent home, stopped, or dead in the middle of a job."""
        self.remotes.remove(remote)
        queued = remote.queued
        if remote.process.exitcode == 0 or stop.is_set():
            if queued is not None:
                self.queue.appendleft(queued)
            return
        self.idle_deaths[remote.name] = self.idle_deaths.get(remote.name, 0) + 1
        if queued is not None:
            queued.deaths += 1
            if queued.deaths < ATTEMPTS:
                self.queue.appendleft(queued)
            else:
                self.assignment.give_up(
                    queued.job, f"its worker process died {ATTEMPTS} times ({_cause(remote.process.exitcode)})"
                )
        if self.idle_deaths[remote.name] < ATTEMPTS and (self.queue or queued):
            self.remotes.append(self._start(context, remote.name, remote.device, shared))


def _context(assignment: Assignment[Any]) -> Any:
    """Workers of CPUs are forked from a process that has imported what they need; an accelerator's are not, for its
    driver does not outlive a fork."""
    if sys.platform != "linux" or set(assignment.devices) != {"cpu"}:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(assignment.imports))
    return context


def _cause(exitcode: int) -> str:
    return f"killed by signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"


def _work(make_worker: MakeWorker[Job], folder: Path, name: str, device: str, connection: Any, stop: Flag) -> None:
    """The life of a worker process; it ends with its parent."""
    share_flag(stop)
    _end_with_parent()
    try:
        perform = make_worker(folder, name, device)
        while (job := connection.recv()) is not None:
            perform(job)
            connection.send("done")
    except StopRequested:
        return
    except InputError as error:
        connection.send(str(error))
    except EOFError:
        return


def _end_with_parent() -> None:
    """A parent that is killed leaves no orphans behind that would go on writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
