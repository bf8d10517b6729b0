"""Published class splits: lists of class names in files beside the data, `data_dir/splits/*.json`, by name."""

import json
from pathlib import Path

from reptile_scaling.errors import InputError

FOLDER = "splits"
PARTS = {"train": ("train",), "validation": ("valid", "validation"), "test": ("test",)}
"""Each part of a split, and the keys that its list may have in the file."""
FRACTIONS = "fractions such as {train: 0.6, validation: 0.15, seed: 0}"


def class_lists(data_dir: Path) -> dict[str, Path]:
    """The class lists of a folder by name: `splits/01.json` is `protaugment-01`, any other `splits/NAME.json` is NAME.

    The numbered files are the five splits of a data set in the ProtAugment protocol (Dopierre et al. 2021).
    """
    paths = sorted((data_dir / FOLDER).glob("*.json"))
    return {f"protaugment-{path.stem}" if path.stem.isdecimal() else path.stem: path for path in paths}


def holds_class_lists(data_dir: Path) -> bool:
    """Whether a folder has class lists; one that has them and no tables takes its utterances from the Hub."""
    return (data_dir / FOLDER).is_dir()


def read_class_lists(name: str, data_dir: Path | None) -> dict[str, list[str]]:
    """The class names of each part of the published split `name`; InputError with the names there are for another."""
    known = class_lists(data_dir) if data_dir else {}
    if name in known:
        return _parts(known[name])
    if known:
        raise InputError(
            f"class_split = {name!r} is unknown: {str(data_dir)!r} has {', '.join(known)}; "
            f"use one of them, or {FRACTIONS}"
        )
    where = f"{str(data_dir / FOLDER)!r} holds none" if data_dir else "data_dir is not set"
    raise InputError(
        f"class_split = {name!r} needs published class lists, but {where}: set data_dir to a folder that holds "
        f"{FOLDER}/{name.removeprefix('protaugment-')}.json, or use {FRACTIONS}"
    )


def _parts(path: Path) -> dict[str, list[str]]:
    try:
        lists = json.loads(path.read_text(encoding="utf-8-sig"))
        # A complaint names the first key.
        found = {part: next((key for key in keys if key in lists), keys[0]) for part, keys in PARTS.items()}
        return {part: _names(lists[key]) for part, key in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"class lists {str(path)!r} cannot be read ({type(error).__name__}: {error}): "
            "make it a JSON object of three lists, train, valid and test"
        ) from error


def _names(names: object) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("a part is no list of class names")
    return names
