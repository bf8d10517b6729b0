"""A disk that remembers every call, and can say what a power cut after any of them would have left.

Stands in for `os` in `reptile_scaling.disk`. Calls are performed and recorded; `Recording.after` makes the folder as it
was after so many of them, either as the process saw it or as the disk had it: of what was not flushed a part is lost,
which part the seed says.
"""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from reptile_scaling import disk


@dataclass(frozen=True)
class Call:
    """A system call on paths below the folder that is watched; `content` of a write, `target` of a rename."""

    name: str
    path: str
    content: bytes = b""
    target: str = ""


@dataclass
class Recording:
    """The calls of one process on one folder, in order."""

    root: Path
    calls: list[Call] = field(default_factory=list)

    def after(self, n_calls: int, folder: Path, seed: int | None = None) -> None:
        """The folder after so many calls, the next one being a write that was cut in half; see `_Tree`."""
        tree = _Tree()
        for call in self.calls[:n_calls]:
            tree.apply(call)
        if n_calls < len(self.calls) and (cut := self.calls[n_calls]).name == "write":
            tree.apply(Call("write", cut.path, cut.content[: len(cut.content) // 2]))
        found = tree.as_seen() if seed is None else tree.as_kept(random.Random(seed))
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(found.folders):
            (folder / name).mkdir(exist_ok=True)
        for name, content in found.files.items():
            (folder / name).write_bytes(content)

    def contents(self) -> dict[str, list[bytes]]:
        """Whatever each file has been as a whole; files that are being written aside are not among them."""
        seen: dict[str, list[bytes]] = {}
        written: dict[str, bytes] = {}
        for call in self.calls:
            match call.name:
                case "create":
                    written[call.path] = b""
                case "write":
                    written[call.path] += call.content
                case "replace":
                    written[call.target] = written.pop(call.path)
                    seen.setdefault(call.target, []).append(written[call.target])
        return seen


@dataclass(frozen=True)
class Found:
    """What is in a folder: its subfolders and its files."""

    folders: set[str]
    files: dict[str, bytes]


@dataclass
class _Inode:
    """A file's content as the process sees it, and as it was when it was last flushed."""

    seen: bytes = b""
    kept: bytes | None = None


@dataclass
class _Tree:
    """A folder as the process sees it, and what of its entries the disk has been told to keep."""

    seen: dict[str, _Inode | None] = field(default_factory=dict)
    kept: dict[str, _Inode | None] = field(default_factory=dict)
    """By path; None for a folder."""
    pending: list[tuple[str, Call, _Inode | None]] = field(default_factory=list)
    """Changes of a folder's entries that are not flushed: the folder, the call, the file it is about."""

    def apply(self, call: Call) -> None:
        inode = self.seen.get(call.path)
        match call.name:
            case "write":
                assert inode is not None, call
                inode.seen += call.content
            case "fsync" if inode is not None:
                inode.kept = inode.seen
            case "fsync":
                for folder, change, of in self.pending:
                    if folder == call.path:
                        _change(self.kept, change, of)
                self.pending = [change for change in self.pending if change[0] != call.path]
            case "create" if inode is not None:
                inode.seen = b""
            case _:
                inode = _Inode() if call.name == "create" else inode
                self.pending.append((_parent(call.path), call, inode))
                _change(self.seen, call, inode)

    def as_seen(self) -> Found:
        return _found(self.seen, lambda inode: inode.seen)

    def as_kept(self, rng: random.Random) -> Found:
        """Of changes that are not flushed each is kept or not; content that is not is whole, cut, zeros or nothing."""
        entries = dict(self.kept)
        for _, change, inode in self.pending:
            if rng.random() < 0.5:
                _change(entries, change, inode)

        def content(inode: _Inode) -> bytes:
            if inode.kept == inode.seen:
                return inode.seen
            return rng.choice((inode.seen, inode.seen[: len(inode.seen) // 2], bytes(len(inode.seen)), b""))

        return _found(entries, content)


def _change(entries: dict[str, _Inode | None], call: Call, inode: _Inode | None) -> None:
    match call.name:
        case "create":
            entries[call.path] = inode
        case "mkdir":
            entries[call.path] = None
        case "unlink":
            entries.pop(call.path, None)
        case "replace":
            entries.pop(call.path, None)
            entries[call.target] = inode


def _parent(path: str) -> str:
    return str(Path(path).parent)


def _found(entries: dict[str, _Inode | None], content: Any) -> Found:
    """What can be reached from the root."""
    folders = {"."}
    for path in sorted(path for path, inode in entries.items() if inode is None):
        if _parent(path) in folders:
            folders.add(path)
    files = {path: inode for path, inode in entries.items() if inode is not None and _parent(path) in folders}
    return Found(folders - {"."}, {path: content(inode) for path, inode in files.items()})


class RecordingOs:
    """`os` for `reptile_scaling.disk`, with a memory of what was done below a folder."""

    def __init__(self, recording: Recording) -> None:
        self._recording, self._open, self._guard = recording, dict[int, str](), threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _note(self, name: str, path: str | None, content: bytes = b"", target: str | None = None) -> None:
        if path is not None:
            self._recording.calls.append(Call(name, path, content, target or ""))

    def _below(self, path: Any) -> str | None:
        path = Path(path)
        return str(path.relative_to(self._recording.root)) if path.is_relative_to(self._recording.root) else None

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        with self._guard:
            descriptor = os.open(path, flags, mode)
            below = self._below(path)
            if below is not None:
                self._open[descriptor] = below
                if flags & (os.O_TRUNC | os.O_EXCL):
                    self._note("create", below)
            return descriptor

    def close(self, descriptor: int) -> None:
        with self._guard:
            self._open.pop(descriptor, None)
            os.close(descriptor)

    def fdopen(self, descriptor: int, mode: str) -> Any:
        with self._guard:
            self._open.pop(descriptor, None)
            return os.fdopen(descriptor, mode)

    def write(self, descriptor: int, content: memoryview) -> int:
        with self._guard:
            n = os.write(descriptor, content)
            self._note("write", self._open.get(descriptor), bytes(content[:n]))
            return n

    def fsync(self, descriptor: int) -> None:
        with self._guard:
            self._note("fsync", self._open.get(descriptor))

    def replace(self, source: Any, target: Any) -> None:
        with self._guard:
            os.replace(source, target)
            self._note("replace", self._below(source), target=self._below(target))

    def unlink(self, path: Any) -> None:
        with self._guard:
            os.unlink(path)
            self._note("unlink", self._below(path))

    def mkdir(self, path: Any) -> None:
        with self._guard:
            os.mkdir(path)
            self._note("mkdir", self._below(path))


@contextmanager
def recorded(root: Path) -> Iterator[Recording]:
    """What is written below an existing folder inside the block; nothing is really flushed meanwhile: it is faster."""
    recording = Recording(root)
    with patch.object(disk, "os", RecordingOs(recording)):
        yield recording
