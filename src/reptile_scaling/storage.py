"""Files written so that a power cut leaves the old or the new one, and read so that a torn one is named. No torch."""

import csv
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from reptile_scaling.errors import InputError, StorageError

REFUSALS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or ask for a larger quota",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "give yourself the right to write there",
    errno.EPERM: "give yourself the right to write there",
    errno.EISDIR: "name a file, since this is a folder",
    errno.ENOTDIR: "choose another folder, since part of the path is a file",
}


@contextmanager
def named_refusals(path: Path) -> Iterator[None]:
    """Turns what a full or closed disk raises into StorageError with a cure."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        cure = REFUSALS[error.errno]
        raise StorageError(
            f"{str(path)!r} cannot be written ({os.strerror(error.errno)}): {cure}, then run the same command again"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no file. InputError for a file that is cut short."""
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not whole ({error}): delete it, then run the same command again") from error
    return content


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_bytes(path, csv_text(rows).encode())


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """A header and a line a row; nothing for no rows."""
    buffer = StringIO()
    if rows:
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return buffer.getvalue()


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows with numbers as numbers; empty where there is no file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def write_bytes(path: Path, content: bytes) -> None:
    """Writes aside, flushes to the disk, renames. StorageError where the disk refuses."""
    with named_refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(aside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
            _flush_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
