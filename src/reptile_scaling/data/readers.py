"""Data sets by name. A new one is a file here and a line in READERS."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from reptile_scaling.data.banking77 import read_banking77
from reptile_scaling.data.dataset import IntentDataset, without_small_classes
from reptile_scaling.data.files import TABLE_ENDINGS, read_file
from reptile_scaling.data.home_assistant import read_home_assistant
from reptile_scaling.data.published import PUBLISHED, read_published
from reptile_scaling.errors import InputError

READERS: dict[str, Callable[[Path | None], IntentDataset]] = {
    "banking77": read_banking77,
    "home_assistant": lambda _: read_home_assistant(),
    **{name: partial(read_published, name) for name in PUBLISHED},
}


def load_dataset(
    name: str,
    data_dir: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    min_class_size: int | None = None,
) -> IntentDataset:
    """A data set by name, or a table file, without classes that are too small.

    Raises InputError with the known names for anything else.
    """
    dataset = _load(name, data_dir, text_column, label_column)
    return without_small_classes(dataset, min_class_size) if min_class_size else dataset


def _load(name: str, data_dir: str | None, text_column: str | None, label_column: str | None) -> IntentDataset:
    folder = Path(data_dir) if data_dir is not None else None
    if folder is not None and not folder.is_dir():
        raise InputError(f"data_dir {data_dir!r} is not a folder: check the path")
    if name in READERS:
        if text_column or label_column:
            raise InputError(f"dataset {name!r} has columns of its own: leave text_column and label_column out")
        return READERS[name](folder)
    if Path(name).suffix in TABLE_ENDINGS:
        return read_file(folder / name if folder else Path(name), text_column, label_column)
    raise InputError(
        f"dataset {name!r} is unknown: use {', '.join(READERS)}, or the path of a {', '.join(TABLE_ENDINGS)} file"
    )
