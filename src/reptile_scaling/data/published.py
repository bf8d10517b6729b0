"""Published intent data sets: from the Hub at a pinned revision, from a local folder of the same layout, or from one
that holds them as plain text and label columns in `utterances.csv`.

A new one is a line in PUBLISHED. No remote code is run: only table files are fetched.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reptile_scaling.data.class_lists import holds_class_lists
from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.data.files import column_names, read_table, rows_of, texts_of
from reptile_scaling.data.hub import fetch_files
from reptile_scaling.errors import InputError


@dataclass(frozen=True)
class Published:
    """Where a data set's tables lie in its repository."""

    repository: str
    revision: str
    paper: str
    tables: tuple[str, ...]
    """Patterns of the files that hold utterances and labels."""
    label_names: str | None = None
    """Pattern of the table that names integer labels, with columns `id` and `name`."""
    out_of_scope: str | None = None
    """The label of utterances that belong to no class; they are left out."""


# Tables with `utterance`, `label` (an integer, null out of scope), and the intents' names beside them.
TABLES, LABEL_NAMES = ("data/*.parquet",), "intents/*.parquet"
# A local copy whose labels are the classes' names.
PLAIN_TABLE = "utterances.csv"


def _massive(language: str) -> Published:
    return Published(
        "mteb/amazon_massive_intent",
        "4672e20407010da34463acc759c162ca9734bca6",
        "FitzGerald et al. 2023, arXiv:2204.08582",
        tables=(f"*/{language}.json*", f"{language}/*.parquet", f"{language}/*.json*"),
    )


PUBLISHED = {
    "clinc150": Published(
        "DeepPavlov/clinc150",
        "d835118ecd5ffe5488d22e9e58d1c23d18c33229",
        "Larson et al. 2019, arXiv:1909.02027",
        TABLES,
        LABEL_NAMES,
        out_of_scope="oos",
    ),
    "hwu64": Published(
        "DeepPavlov/hwu64",
        "0e655e205491f75a208371c4c3a6b340454c8e13",
        "Liu et al. 2019, arXiv:1903.05566",
        TABLES,
        LABEL_NAMES,
    ),
    "massive_en": _massive("en"),
    "massive_de": _massive("de"),
    "snips": Published(
        "AutoIntent/snips",
        "5ec745ebb08e20304b5bb83c4c77713214f8833e",
        "Coucke et al. 2018, arXiv:1805.10190",
        tables=("default/*/*.parquet",),
        label_names="intents/*/*.parquet",
    ),
    "atis": Published(
        "DeepPavlov/atis_intent_classification",
        "01f3bc14cd27fdd6d4c4ac07e30e6ad3fa09c0a6",
        "Hemphill et al. 1990",
        TABLES,
    ),
}


def read_published(name: str, data_dir: Path | None) -> IntentDataset:
    """All parts together (the class split decides what is tested), from `data_dir` or from the Hub.

    A `data_dir` that holds `splits/` and no tables gives the published splits of the Hub's utterances. Raises
    InputError where the folder lacks a table, a table a column, or an integer label its name.
    """
    source = PUBLISHED[name]
    folder = data_dir
    if folder is None or (holds_class_lists(folder) and not _tables(source, folder)):
        patterns = (*source.tables, *((source.label_names,) if source.label_names else ()))
        folder = fetch_files(source.repository, source.revision, patterns)
    paths = _tables(source, folder)
    if not paths:
        raise InputError(
            f"data_dir {str(folder)!r} holds none of {', '.join((*source.tables, PLAIN_TABLE))}: copy the tables of "
            f"{source.repository} there, or leave data_dir out"
        )
    is_plain = paths == [folder / PLAIN_TABLE]
    names = {} if is_plain else _label_names(folder, source.label_names)
    rows = [row for path in paths for row in _rows(read_table(path), names, str(path))]
    return make_dataset(name, [row for row in rows if row[1] != source.out_of_scope])


def _tables(source: Published, folder: Path) -> list[Path]:
    """The plain table alone, where there is one, or those of the repository's layout."""
    if (plain := folder / PLAIN_TABLE).is_file():
        return [plain]
    return sorted({path for pattern in source.tables for path in folder.glob(pattern)})


def _label_names(folder: Path, pattern: str | None) -> dict[int, str]:
    if pattern is None:
        return {}
    tables = [read_table(path) for path in sorted(folder.glob(pattern))]
    if not tables:
        raise InputError(f"data_dir {str(folder)!r} holds no {pattern}, which names the labels: copy it there")
    for table in tables:
        if missing := {"id", "name"} - set(table.columns):
            raise InputError(f"{folder / pattern} lacks the column {sorted(missing)[0]!r}: copy it again")
    return {int(i): str(name) for table in tables for i, name in zip(table["id"], table["name"], strict=True)}


def _rows(table: pd.DataFrame, names: dict[int, str], source: str) -> list[tuple[str, str]]:
    if not names:
        return rows_of(table, source)
    if "label" not in table.columns:
        raise InputError(f"{source} has the columns {column_names(table)}, no 'label': copy it again")
    in_scope = table[table["label"].notna()]
    labels = [int(label) for label in in_scope["label"]]
    if unnamed := sorted(set(labels) - set(names)):
        raise InputError(f"{source}: label {unnamed[0]} has no name in the table of intents: copy both again")
    return list(zip(texts_of(in_scope, source), (names[label] for label in labels), strict=True))
