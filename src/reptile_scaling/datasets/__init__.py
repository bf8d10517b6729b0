"""Data sets by name. A new one is a file here and a line in READERS."""

from collections.abc import Callable
from pathlib import Path

from reptile_scaling.datasets.banking77 import read_banking77
from reptile_scaling.datasets.dataset import IntentDataset
from reptile_scaling.datasets.files import TABLE_ENDINGS, read_file
from reptile_scaling.datasets.home_assistant import read_home_assistant
from reptile_scaling.errors import InputError

READERS: dict[str, Callable[[Path | None], IntentDataset]] = {
    "banking77": read_banking77,
    "home_assistant": lambda _: read_home_assistant(),
}


def load_dataset(name: str, data_dir: str | None = None) -> IntentDataset:
    """A data set by name, or a table file. Raises InputError with the known names for anything else."""
    folder = Path(data_dir) if data_dir is not None else None
    if folder is not None and not folder.is_dir():
        raise InputError(f"data_dir {data_dir!r} is not a folder: check the path")
    if name in READERS:
        return READERS[name](folder)
    if Path(name).suffix in TABLE_ENDINGS:
        return read_file(folder / name if folder else Path(name))
    raise InputError(
        f"dataset {name!r} is unknown: use {', '.join(READERS)}, or the path of a {', '.join(TABLE_ENDINGS)} file"
    )
