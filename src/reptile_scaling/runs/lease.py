"""One process a folder: a lock of the file system, and a lease for where that lock ends at the node or is none.

The lease names its holder and changes every few seconds. Another node's is watched by the watcher's own clock, so that
clocks which differ between nodes mislead nobody: one that does not change for long has no holder any more.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from reptile_scaling import disk
from reptile_scaling.disk import named_refusals
from reptile_scaling.errors import InputError, StorageError
from reptile_scaling.interruption import request_stop
from reptile_scaling.storage import read_record, write_record

LOCK, LEASE = ".lock", ".lease.json"
HOLDING = (LOCK, LEASE)
"""What lies in a folder that is held and has nothing else in it yet."""
SECONDS_BETWEEN_BEATS = 5.0
SECONDS_WITHOUT_A_BEAT = 90.0
"""Longer than a network folder may show a node what it remembers (60 s, NFS's `acdirmax`)."""
SECONDS_BETWEEN_LOOKS = 1.0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Lease:
    """Who holds a folder, since when (Unix time), and how often that has been said."""

    host: str = field(default_factory=socket.gethostname)
    boot: str = field(default_factory=_boot)
    """Tells nodes of one name apart, and a node from itself before it was started again."""
    pid: int = field(default_factory=os.getpid)
    process_started: str = ""
    """A process's number is given to another one some day."""
    since: float = field(default_factory=time.time)
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    beats: int = 0


TORN = Lease(host="", boot="torn", pid=0, since=0.0, token="")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder is this process's inside the block; InputError where another one has it, StorageError where the disk
    refuses. A holder that finds its lease taken stops after its step."""
    with named_refusals(folder):
        disk.make_folder(folder)
    with _locked(folder) as is_locked:
        own = _take(folder, is_locked)
        closed = threading.Event()
        beating = threading.Thread(target=_beat, args=(folder, own, closed), name="lease", daemon=True)
        beating.start()
        try:
            yield
        finally:
            closed.set()
            beating.join()
            _give_back(folder, own)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """With whether the file system locks at all; InputError where another process has the lock."""
    with named_refusals(folder / LOCK, "locked"):
        lock = disk.take_lock(folder / LOCK)
    if lock is disk.Lock.OF_ANOTHER:
        raise _is_held(folder, _read(folder))
    try:
        yield lock is not disk.Lock.UNKNOWN_HERE
    finally:
        if isinstance(lock, int):
            os.close(lock)


def _is_held(folder: Path, lease: Lease | None) -> InputError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lease.since)) if lease else ""
    who = f" (process {lease.pid} on {lease.host} since {since})" if lease else ""
    return InputError(f"another process is running in {str(folder)!r}{who}: wait for it, or choose another --out")


def _take(folder: Path, is_locked: bool) -> Lease:
    """A lease of our own: where there is none, or in place of one whose holder is gone."""
    own = Lease(process_started=_start_of(os.getpid()))
    while not _create(folder, own):
        found = _read(folder)
        if found is None:
            continue
        if _is_alive(folder, found, is_locked):
            raise _is_held(folder, found)
        _remove_if_still(folder, found, own)
    return own


def _create(folder: Path, own: Lease) -> bool:
    """False where there is a lease already: of two processes that create it at once, one gets this."""
    with named_refusals(folder / LEASE):
        try:
            disk.write_file(folder / LEASE, json.dumps(asdict(own)).encode(), must_be_new=True)
        except FileExistsError:
            return False
        disk.flush_folder(folder)
    return True


def _read(folder: Path) -> Lease | None:
    """None where there is none; `TORN` where it is being written, or was when its node lost power."""
    try:
        return read_record(folder / LEASE, Lease)
    except StorageError:
        raise
    except InputError:
        return TORN


def _is_alive(folder: Path, found: Lease, is_locked: bool) -> bool:
    """Whether its holder lives. On this node the kernel knows; of another node it is seen from the beats."""
    if (found.host, found.boot) == (socket.gethostname(), _boot()):
        # The lock of a node goes with its processes, and we have it.
        return not is_locked and found.process_started == _start_of(found.pid)
    end = time.monotonic() + SECONDS_WITHOUT_A_BEAT
    while time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if _read(folder) != found:
            return True
    return False


def _start_of(pid: int) -> str:
    """When a process of this node began, in ticks since the boot; empty where none has this number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return "none"
    return "running"


def _remove_if_still(folder: Path, dead: Lease, own: Lease) -> None:
    """Takes a dead holder's lease away. Two processes may find it dead at once, and the second must not take away the
    lease of the first: it is moved aside, looked at, and put back where it is another one."""
    aside = folder / f"{LEASE}.{own.token}.part"
    with named_refusals(folder / LEASE):
        try:
            disk.rename(folder / LEASE, aside)
        except FileNotFoundError:
            return
        moved = disk.read_file(aside) or b""
        if f'"{dead.token}"'.encode() not in moved and dead is not TORN:
            with suppress(FileExistsError):
                disk.write_file(folder / LEASE, moved, must_be_new=True)
        disk.remove(aside)


def _beat(folder: Path, own: Lease, closed: threading.Event) -> None:
    """Says that the holder lives, until the folder is given back or somebody else has the lease."""
    while not closed.wait(SECONDS_BETWEEN_BEATS):
        with suppress(StorageError):  # the step in progress will say so
            found = _read(folder)
            if found is not None and found.token != own.token:
                request_stop()
                return
            own = replace(own, beats=own.beats + 1)
            write_record(folder / LEASE, own)


def _give_back(folder: Path, own: Lease) -> None:
    with suppress(StorageError):
        found = _read(folder)
        if found is not None and found.token == own.token:
            with named_refusals(folder / LEASE):
                disk.remove(folder / LEASE)
