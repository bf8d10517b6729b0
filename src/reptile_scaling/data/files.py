"""Any csv, jsonl or parquet table with a text and a label column."""

from pathlib import Path

import pandas as pd

from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.errors import InputError

TEXT_COLUMNS = ("text", "utterance", "sentence", "query")
# Names before numbers: Banking77 on the Hub has both `label` (an integer) and `label_text`.
LABEL_COLUMNS = ("label_text", "category", "intent", "label", "class")
TABLE_ENDINGS = (".csv", ".jsonl", ".parquet")


def read_file(path: Path, text_column: str | None = None, label_column: str | None = None) -> IntentDataset:
    """The data set in one table file, named after it; columns by name, or found.

    Raises InputError if it cannot be read as one.
    """
    table, source = read_table(path), str(path)
    texts = texts_of(table, source, (text_column,) if text_column else TEXT_COLUMNS)
    labels = labels_of(table, source, (label_column,) if label_column else LABEL_COLUMNS)
    return make_dataset(path.name, zip(texts, labels, strict=True))


def read_table(path: Path) -> pd.DataFrame:
    """A csv, jsonl or parquet file as text columns; InputError names the file and what is wrong with it."""
    if not path.is_file():
        raise InputError(f"data file {str(path)!r} does not exist: check the path")
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if path.name.endswith((".jsonl", ".jsonl.gz", ".json.gz")):
            return pd.read_json(path, lines=True, dtype=False, encoding="utf-8-sig")
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
    except UnicodeDecodeError as error:
        raise InputError(f"data file {str(path)!r} is not UTF-8 ({error.reason}): save it as UTF-8") from error
    # pandas and pyarrow raise anything (TypeError, RecursionError, OverflowError …) on a file made to confuse them.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"data file {str(path)!r} is no {path.suffix[1:]} table ({reason}): mend or replace it"
        ) from error
    raise InputError(f"data file {str(path)!r} has an unknown ending: use one of {', '.join(TABLE_ENDINGS)}")


def rows_of(table: pd.DataFrame, source: str) -> list[tuple[str, str]]:
    """(text, label) rows of a table; InputError if a column is missing or an entry is empty."""
    return list(zip(texts_of(table, source), labels_of(table, source), strict=True))


def texts_of(table: pd.DataFrame, source: str, columns: tuple[str, ...] = TEXT_COLUMNS) -> list[str]:
    """The utterances of a table, in its order; InputError as for `rows_of`."""
    return _entries(table, _column(table, columns, source), source)


def labels_of(table: pd.DataFrame, source: str, columns: tuple[str, ...] = LABEL_COLUMNS) -> list[str]:
    """The labels of a table, in its order; InputError as for `rows_of`."""
    return _entries(table, _column(table, columns, source), source)


def _entries(table: pd.DataFrame, column: str, source: str) -> list[str]:
    # A table's null is an empty entry, not the word "None".
    entries = [str(entry) for entry in table[column].astype(object).where(table[column].notna(), "")]
    for number, entry in enumerate(entries, start=1):
        if not entry.strip():
            raise InputError(f"{source}: row {number} has an empty {column!r}: fill it in or delete the row")
    return entries


def _column(table: pd.DataFrame, names: tuple[str, ...], source: str) -> str:
    for name in names:
        if name in table.columns:
            return name
    raise InputError(
        f"{source} has the columns {column_names(table)}, none of {', '.join(names)}: rename one to {names[0]!r}"
    )


def column_names(table: pd.DataFrame) -> str:
    """For a sentence: a name may hold line breaks."""
    return ", ".join(" ".join(str(name).split()) for name in table.columns)
