"""Files written so that a power cut leaves the old or the new one, and read so that a torn one is named. No torch."""

import csv
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, TypeAdapter, ValidationError

from reptile_scaling.errors import InputError, StorageError


@runtime_checkable
class Fields(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Record = TypeVar("Record")

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


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """An object with its keys in the order given; a configuration inside it as its settings."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False, default=_settings) + "\n").encode())


def _settings(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds")


def write_record(path: Path, record: Fields) -> None:
    """One dataclass as a JSON object."""
    write_json(path, asdict(record))


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """What `write_record` wrote, typed by the fields of `kind`; None where there is no file.

    InputError for a file that is cut short, or that lacks a field which has no default.
    """
    if not path.is_file():
        return None
    reader: TypeAdapter[Record] = _reader(kind)
    try:
        return reader.validate_json(path.read_bytes())
    except ValidationError as error:
        raise _refusal(path, error) from error


def write_lines(path: Path, records: Sequence[Fields]) -> None:
    """A JSON object a line; a field that is None is left out."""
    kept = [{key: value for key, value in asdict(record).items() if value is not None} for record in records]
    write_bytes(path, "".join(json.dumps(fields, separators=(",", ":")) + "\n" for fields in kept).encode())


def read_lines(path: Path, kind: type[Record]) -> list[Record]:
    """What `write_lines` wrote; empty where there is no file, InputError for one that is torn or foreign."""
    if not path.is_file():
        return []
    try:
        return [_reader(kind).validate_json(line) for line in path.read_bytes().splitlines()]
    except ValidationError as error:
        raise _refusal(path, error) from error


def write_rows(path: Path, kind: type[Record], rows: Sequence[Record]) -> None:
    """A CSV table of the dataclass `kind`: see `csv_text`."""
    write_bytes(path, csv_text(kind, rows).encode())


def csv_text(kind: type[Record], rows: Sequence[Record]) -> str:
    """A header, then a line a row; a field's column has its name, or what its metadata has as `column`."""
    cells = [[getattr(row, name) for name in columns(kind).values()] for row in rows]
    return "".join(",".join(map(_cell, line)) + "\n" for line in [list(columns(kind)), *cells])


def _cell(value: object) -> str:
    # The csv module of Python 3.11 leaves a lone carriage return bare, and then cannot read it.
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def columns(kind: type[Any]) -> dict[str, str]:
    """The columns of a table of `kind`, each with its field."""
    return {str(field.metadata.get("column", field.name)): field.name for field in fields(kind)}


def read_rows(path: Path, kind: type[Record]) -> list[Record]:
    """What `write_rows` wrote, typed by the fields of `kind`: a name like `7` stays a string.

    Empty where there is no file, or nothing in it. InputError for a table that is cut short, or not one of `kind`.
    """
    content = path.read_bytes() if path.is_file() else b""
    if not content:
        return []
    try:
        header, *lines = csv.reader(StringIO(content.decode(), newline=""), strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _not_whole(path, str(error), REDO) from error
    if missing := [column for column in columns(kind) if column not in header]:
        raise InputError(f"{str(path)!r} has no column {missing[0]!r}, so it is torn or of another program: {REDO}")
    torn = [number for number, line in enumerate(lines, 1) if len(line) != len(header)]
    if torn or not content.endswith(b"\n"):
        raise _not_whole(path, f"row {torn[0] if torn else len(lines)} is cut short", REDO)
    places = [(header.index(column), name) for column, name in columns(kind).items()]
    found = [{name: line[place] for place, name in places} for line in lines]
    reader: TypeAdapter[Record] = _reader(kind)
    try:
        return [reader.validate_python(row) for row in found]
    except ValidationError as error:
        raise _refusal(path, error) from error


RERUN = "delete it, then run the same command again"
REDO = "delete the folder it lies in, then run the same command again"


_reader: Callable[[Any], Any] = cache(TypeAdapter)
"""Made once a type."""


def _not_whole(path: Path, why: str, cure: str) -> InputError:
    return InputError(f"{str(path)!r} is not whole ({why}): {cure}")


def _refusal(path: Path, error: ValidationError) -> InputError:
    """The first complaint in one sentence."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return _not_whole(path, first["msg"], RERUN)
    place = ".".join(map(str, first["loc"]))
    why = f"{place}: {' '.join(first['msg'].split())}"
    cure = REDO if path.suffix == ".csv" else RERUN
    return InputError(f"{str(path)!r} cannot be read ({why}): use the version that wrote it, or {cure}")


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
