"""What a base's weights are, whatever they are called: SHA-256 over the files they were loaded from.

A file is read once; its digest is kept in the cache folder beside its path, size and time of change.
"""

import hashlib
import json
from pathlib import Path

from reptile_scaling.errors import StorageError
from reptile_scaling.storage import write_json


def weights_digest(source: Path, known: Path) -> str:
    """Of a weight file, or of all that a folder in Hub layout holds; `known` is the folder of what was read before.

    Empty where the folder holds no weights.
    """
    files = [source] if source.is_file() else _weight_files(source)
    if len(files) == 1:
        return _file_digest(files[0], known)
    whole = hashlib.sha256()
    for file in files:
        whole.update(_file_digest(file, known).encode())
    return whole.hexdigest() if files else ""


def _weight_files(folder: Path) -> list[Path]:
    """In the format that transformers prefers."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _file_digest(path: Path, known: Path) -> str:
    path = path.resolve()
    stat = path.stat()
    facts = [str(path), stat.st_size, stat.st_mtime_ns]
    note = known / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
        if before["file"] == facts:
            return str(before["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never read, or torn: it is read now
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        known.mkdir(parents=True, exist_ok=True)
        write_json(note, {"file": facts, "sha256": digest})
    except (OSError, StorageError):
        pass  # a cache folder that cannot be written to costs time, nothing else
    return digest
