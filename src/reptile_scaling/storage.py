"""Files written so that a power cut leaves the old or the new one, and read so that a torn or flipped one is named.

No torch.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from pydantic import BaseModel, TypeAdapter, ValidationError

from reptile_scaling import disk
from reptile_scaling.disk import named_refusals, read_file
from reptile_scaling.errors import InputError
from reptile_scaling.seals import (
    SUMS,
    BrokenSeal,
    check_listed,
    check_tensors,
    read_sums,
    sealed_json,
    sealed_tensors,
    sha256,
    sums_text,
    unsealed_json,
)


@runtime_checkable
class Fields(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Record = TypeVar("Record")

SEALED_ELSEWHERE = ("status.json", SUMS)
"""What a list of digests leaves out: a heartbeat, and the list itself."""


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """An object with its keys in the order given; a configuration inside it as its settings."""
    write_bytes(path, _json_text(content).encode())


def _json_text(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, allow_nan=False, default=_settings) + "\n"


def _settings(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds")


def write_record(path: Path, record: Fields) -> None:
    """One dataclass as a JSON object, without a seal: for what is written again every second."""
    write_json(path, asdict(record))


def write_sealed(path: Path, record: Fields) -> None:
    """One dataclass as a JSON object that begins with the digest of the rest."""
    write_bytes(path, sealed_json(_json_text(asdict(record))))


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """What `write_record` or `write_sealed` wrote, typed by the fields of `kind`; None where there is no file.

    InputError for a file that is cut short, that is not as it was written, or that lacks a field without a default.
    """
    content = read_file(path)
    if content is None:
        return None
    reader: TypeAdapter[Record] = _reader(kind)
    try:
        return reader.validate_json(unsealed_json(content, set(columns(kind).values())))
    except BrokenSeal as error:
        raise _not_whole(path, str(error), RERUN) from error
    except ValidationError as error:
        raise _refusal(path, error) from error


def write_lines(path: Path, records: Sequence[Fields]) -> None:
    """A JSON object a line; a field that is None is left out."""
    kept = [{key: value for key, value in asdict(record).items() if value is not None} for record in records]
    write_bytes(path, "".join(json.dumps(fields, separators=(",", ":")) + "\n" for fields in kept).encode())


def read_lines(path: Path, kind: type[Record]) -> list[Record]:
    """What `write_lines` wrote; empty where there is no file, InputError for one that is torn or foreign."""
    try:
        return [_reader(kind).validate_json(line) for line in (read_listed(path, REDO) or b"").splitlines()]
    except ValidationError as error:
        raise _refusal(path, error) from error


def write_rows(path: Path, kind: type[Record], rows: Sequence[Record]) -> None:
    """A CSV table of the dataclass `kind`: see `csv_text`."""
    write_bytes(path, csv_text(kind, rows).encode())


def csv_text(kind: type[Record], rows: Sequence[Record]) -> str:
    """A header, then a line a row; a field's column has its name, or what its metadata has as `column`.

    A word that a spreadsheet would take for a formula (`=cmd()`, `+1`, `-x`, `@x`) has an apostrophe before it, which
    `read_rows` takes away again.
    """
    cells = [[getattr(row, name) for name in columns(kind).values()] for row in rows]
    return "".join(",".join(map(_cell, line)) + "\n" for line in [list(columns(kind)), *cells])


FORMULA = re.compile("'*[=+\\-@\t\r]")
"""How a word begins that a spreadsheet may take for a formula, also with the apostrophe that keeps it from that."""


def _cell(value: object) -> str:
    # The csv module of Python 3.11 leaves a lone carriage return bare, and then cannot read it.
    text = "" if value is None else no_formula(value) if isinstance(value, str) else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def columns(kind: type[Any]) -> dict[str, str]:
    """The columns of a table of `kind`, each with its field."""
    return {str(field.metadata.get("column", field.name)): field.name for field in fields(kind)}


def read_rows(path: Path, kind: type[Record]) -> list[Record]:
    """What `write_rows` wrote, typed by the fields of `kind`: a name like `7` stays a string.

    Empty where there is no file, or nothing in it. A field with a default may lack its column, as in tables of earlier
    versions, or its value. InputError for a table that is cut short, or not one of `kind`.
    """
    content = read_listed(path, REDO)
    if not content:
        return []
    try:
        header, *lines = csv.reader(StringIO(content.decode(), newline=""), strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _not_whole(path, str(error), REDO) from error
    younger = {field.name for field in fields(cast(Any, kind)) if field.default is not MISSING}
    missing = [column for column, name in columns(kind).items() if column not in header and name not in younger]
    if missing:
        raise InputError(f"{str(path)!r} has no column {missing[0]!r}, so it is torn or of another program: {REDO}")
    torn = [number for number, line in enumerate(lines, 1) if len(line) != len(header)]
    if torn or not content.endswith(b"\n"):
        raise _not_whole(path, f"row {torn[0] if torn else len(lines)} is cut short", REDO)
    places = [(header.index(column), name) for column, name in columns(kind).items() if column in header]
    found = [
        {name: _word(line[place]) for place, name in places if line[place] or name not in younger} for line in lines
    ]
    reader: TypeAdapter[Record] = _reader(kind)
    try:
        return [reader.validate_python(row) for row in found]
    except ValidationError as error:
        raise _refusal(path, error) from error


def no_formula(word: str) -> str:
    """As a cell of a CSV table that a spreadsheet opens."""
    return "'" + word if FORMULA.match(word) else word


def _word(cell: str) -> str:
    """What `no_formula` was given."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


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
        disk.make_folder(path.parent)
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            disk.write_file(aside, content)
            disk.rename(aside, path)
        except BaseException:  # also Ctrl-C
            with suppress(OSError):
                disk.remove(aside)
            raise


def move(source: Path, target: Path) -> None:
    """A file in place of another one of its folder. StorageError where the disk refuses."""
    with named_refusals(target):
        disk.rename(source, target)


def write_tensors(path: Path, content: bytes) -> None:
    """Safetensors, saved with `seals.BLANK` in their metadata, and sealed."""
    write_bytes(path, sealed_tensors(content))


def read_tensors(path: Path) -> bytes | None:
    """Safetensors as `write_tensors` wrote them, or of before there were seals; None where there is no file.

    BrokenSeal where they are anything else.
    """
    content = read_file(path)
    if content is not None:
        check_tensors(content)
    return content


def seal(folder: Path) -> None:
    """Lists the digests of the files that lie in a folder now in its `SHA256SUMS`; its subfolders have their own."""
    with named_refusals(folder, "read"):
        found = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    listed = [path for path in found if path.name not in SEALED_ELSEWHERE and not path.name.startswith("checkpoint")]
    write_bytes(folder / SUMS, sums_text({path.name: sha256(read_file(path) or b"") for path in listed}).encode())


def unseal(folder: Path) -> None:
    """Before files are written anew: until they are sealed again nothing vouches for them, and nothing accuses them."""
    with named_refusals(folder):
        disk.remove(folder / SUMS)


def read_listed(path: Path, cure: str) -> bytes | None:
    """A file as the `SHA256SUMS` beside it says, where there is one; None where there is no file.

    InputError with `cure` for one that is not.
    """
    content, sums = read_file(path), read_file(path.with_name(SUMS))
    if content is None or sums is None:
        return content
    try:
        listed = read_sums(sums)
    except BrokenSeal as error:
        raise _not_whole(path.with_name(SUMS), str(error), cure) from error
    try:
        check_listed(path.name, content, listed)
    except BrokenSeal as error:
        raise _not_whole(path, str(error), cure) from error
    return content


def is_whole(folder: Path) -> bool:
    """Whether a folder has a list of digests and every file it names is as listed: what a cache has to be."""
    try:
        listed = read_sums(read_file(folder / SUMS) or b"")
        return all(read_listed(folder / name, "make it again") is not None for name in listed)
    except (BrokenSeal, InputError):
        return False


def publish(aside: Path, folder: Path) -> None:
    """A folder that somebody else's code has written becomes `folder`, sealed, whole or not at all; nothing happens
    where another process was faster."""
    with named_refusals(folder):
        seal(aside)
        disk.flush_tree(aside)
        try:
            disk.rename(aside, folder)
        except OSError:
            if not is_whole(folder):
                raise
