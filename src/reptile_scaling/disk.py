"""The system calls by which every file is written, and what a refusal of each says. Rooms write through `storage`.

A tested rule: what a call here has returned from is on the disk, also after a power cut.
"""

import enum
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reptile_scaling.errors import StorageError

CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or ask for a larger quota",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "give yourself the right to it",
    errno.EPERM: "give yourself the right to it",
    errno.EISDIR: "name a file, since this is a folder",
    errno.ENOTDIR: "choose another folder, since part of the path is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ESTALE: "mount the network folder again",
    errno.EMFILE: "raise the limit on open files",
}
CHECK_THE_DISK = "check the disk or the network folder"
NOTHING_TO_FLUSH = (errno.EINVAL, errno.ENOTSUP)
"""How a file system says that its folders need no flush of their own (CIFS, some FUSE)."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""How a file system says that it locks nothing: NFS without its daemon, Lustre without `-o flock`."""


class Lock(enum.Enum):
    """Why a lock is not ours."""

    OF_ANOTHER = enum.auto()
    UNKNOWN_HERE = enum.auto()


@contextmanager
def named_refusals(path: Path, what: str = "written") -> Iterator[None]:
    """Turns what a full, closed or broken disk raises into StorageError with a cure."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        cure = CURES.get(error.errno or 0, CHECK_THE_DISK)
        raise StorageError(f"{str(path)!r} cannot be {what} ({reason}): {cure}, then run the same command again") from (
            error
        )


def read_file(path: Path) -> bytes | None:
    """The whole content; None where there is no file. StorageError where the disk refuses."""
    with named_refusals(path, "read"):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()


def write_file(path: Path, content: bytes, *, must_be_new: bool = False) -> None:
    """Writes and flushes. FileExistsError, and nothing is touched, where the file must be new and is not."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if must_be_new else os.O_TRUNC)
    descriptor = os.open(path, flags, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """In place of what was there."""
    os.replace(source, target)
    flush_folder(target.parent)


def remove(path: Path) -> None:
    """A file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    flush_folder(path.parent)


def make_folder(path: Path) -> None:
    """With its parents; each new one is flushed into its parent, without which a power cut takes it with all in it."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    _flush(folder, ignored=NOTHING_TO_FLUSH)


def flush_tree(folder: Path) -> None:
    """Everything below a folder that somebody else's code has written."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _flush(path, ignored=NOTHING_TO_FLUSH if path.is_dir() else ())
    flush_folder(folder)


def _flush(path: Path, ignored: tuple[int, ...]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in ignored:
            raise
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int | Lock:
    """The descriptor that holds the lock until it is closed, or why there is none."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return Lock.OF_ANOTHER
        if error.errno in NO_LOCKS:
            return Lock.UNKNOWN_HERE
        raise
    return descriptor
