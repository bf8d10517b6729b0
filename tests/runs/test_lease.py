"""One process a folder, also where the file system's lock ends at the node, or is none."""

import errno
import json
import multiprocessing
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import reptile_scaling.runs.lease as lease
from reptile_scaling import disk
from reptile_scaling.errors import InputError
from reptile_scaling.runs.lease import LEASE, Lease, held


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SECONDS_WITHOUT_A_BEAT", 0.4)
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_BEATS", 0.1)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that locks nothing."""

    class NoLocks:
        LOCK_EX = LOCK_NB = 0

        def flock(self, *_: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(disk, "fcntl", NoLocks())


def written(folder: Path, found: Lease) -> None:
    (folder / LEASE).write_text(json.dumps(asdict(found)))


def refused(folder: Path) -> str:
    with pytest.raises(InputError, match="another process is running") as error, held(folder):
        pass
    return str(error.value)


def test_second_holder_is_told_who_has_the_folder(tmp_path) -> None:
    with held(tmp_path):
        said = refused(tmp_path)
    assert f"process {os.getpid()} on {Lease().host} since {time.strftime('%Y-')}" in said
    assert said.endswith("wait for it, or choose another --out")
    assert not (tmp_path / LEASE).exists()
    with held(tmp_path):
        pass


def test_second_holder_is_refused_where_nothing_is_locked(tmp_path, no_locks) -> None:
    with held(tmp_path):
        refused(tmp_path)
    with held(tmp_path):
        pass


def test_dead_process_of_this_node_holds_nothing(tmp_path, no_locks) -> None:
    gone = multiprocessing.get_context("spawn").Process(target=os.getpid)
    gone.start()
    gone.join()
    written(tmp_path, replace(Lease(), pid=gone.pid or 0, process_started="12345"))
    with held(tmp_path):
        pass


def test_number_of_a_dead_process_that_another_one_has_now_holds_nothing(tmp_path, no_locks) -> None:
    written(tmp_path, replace(Lease(), process_started="1"))
    with held(tmp_path):
        pass


def test_other_node_holds_the_folder_as_long_as_its_lease_changes(tmp_path) -> None:
    """Its clock is a day behind ours: what counts is that it beats."""
    other = replace(Lease(), host="node-7", since=time.time() - 86_400)
    written(tmp_path, other)
    closed = threading.Event()

    def beat() -> None:
        beats = 0
        while not closed.wait(0.05):
            beats += 1
            (tmp_path / "aside").write_text(json.dumps(asdict(replace(other, beats=beats))))
            os.replace(tmp_path / "aside", tmp_path / LEASE)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert "on node-7" in refused(tmp_path)
    finally:
        closed.set()
        thread.join()
    with held(tmp_path):  # it beats no more
        assert json.loads((tmp_path / LEASE).read_text())["host"] != "node-7"


def test_torn_lease_of_a_node_that_lost_power_is_taken(tmp_path) -> None:
    (tmp_path / LEASE).write_bytes(b'{"host": "no')
    with held(tmp_path):
        pass


def test_holder_whose_lease_was_taken_stops_after_its_step(tmp_path, monkeypatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(lease, "request_stop", asked.set)
    with held(tmp_path):
        thief = replace(Lease(), host="node-8")
        written(tmp_path, thief)
        assert asked.wait(5.0)
    assert json.loads((tmp_path / LEASE).read_text())["host"] == "node-8", "the thief's lease was given back"


def compete(folder: Path, n: int, begun, won) -> None:
    """Nodes of their own names that see one dead lease."""
    lease.socket.gethostname = lambda: f"node-{n}"  # type: ignore[assignment]
    lease.SECONDS_WITHOUT_A_BEAT, lease.SECONDS_BETWEEN_LOOKS, lease.SECONDS_BETWEEN_BEATS = 0.4, 0.02, 0.1
    disk.take_lock = lambda _: disk.Lock.UNKNOWN_HERE  # type: ignore[assignment]
    begun.wait()
    try:
        with held(folder):
            won.put(n)
            time.sleep(1.5)
    except InputError:
        won.put(None)


def test_of_four_nodes_that_find_a_dead_lease_at_once_one_wins(tmp_path) -> None:
    written(tmp_path, replace(Lease(), host="node-9"))
    context = multiprocessing.get_context("fork")
    begun, won = context.Barrier(4), context.Queue()
    nodes = [context.Process(target=compete, args=(tmp_path, n, begun, won)) for n in range(4)]
    for node in nodes:
        node.start()
    outcomes = [won.get(timeout=30) for _ in nodes]
    for node in nodes:
        node.join()
    assert len([n for n in outcomes if n is not None]) == 1
