"""Banking77: 13,083 customer queries, 77 intents (Casanueva et al. 2020, arXiv:2003.04807), CC-BY-4.0."""

import json
from pathlib import Path

from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.data.files import read_table, rows_of
from reptile_scaling.data.hub import read_hub_rows
from reptile_scaling.errors import InputError

# The original repository is a script data set, which `datasets` no longer loads; this copy is parquet.
HUB_REPOSITORY = "mteb/banking77"
HUB_REVISION = "0fd18e25b25c072e09e0d92ab615fda904d66300"


def read_banking77(data_dir: Path | None) -> IntentDataset:
    """Train and test part together (the class split decides what is tested), from `data_dir` or from the Hub.

    A `data_dir` that holds `splits/` and no tables gives the published splits of the Hub's utterances.
    """
    if data_dir is None or ((data_dir / "splits").is_dir() and not (data_dir / "train.csv").exists()):
        return make_dataset("banking77", read_hub_rows(HUB_REPOSITORY, HUB_REVISION))
    rows = [row for name in ("train.csv", "test.csv") for row in _rows(data_dir / name)]
    return make_dataset("banking77", rows)


def read_published_split(name: str, data_dir: Path | None) -> dict[str, list[str]]:
    """The class names of the published 25/25/27 split `protaugment-0N` (Dopierre et al. 2021), per part.

    Read from `data_dir/splits/0N.json`; InputError where that file is absent.
    """
    number = name.removeprefix("protaugment-")
    path = data_dir / "splits" / f"{number}.json" if data_dir else None
    if path is None or not path.is_file():
        where = f"{str(path)!r} does not exist" if path else "data_dir is not set"
        raise InputError(
            f"class_split {name!r} needs the published class lists, but {where}: set data_dir to a folder "
            f"that holds splits/{number}.json, or use fractions such as {{train: 0.33, validation: 0.32, seed: 0}}"
        )
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
        validation = parts["valid"] if "valid" in parts else parts["validation"]
        return {"train": list(parts["train"]), "validation": list(validation), "test": list(parts["test"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"class lists {str(path)!r} cannot be read ({type(error).__name__}: {error}): "
            "make it a JSON object of three lists, train, valid and test"
        ) from error


def _rows(path: Path) -> list[tuple[str, str]]:
    return rows_of(read_table(path), str(path))
