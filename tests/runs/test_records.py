"""Every table of a run comes back as it was written, and a torn or foreign one is refused in a sentence."""

import csv
import re
from dataclasses import fields
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reptile_scaling.errors import InputError
from reptile_scaling.runs.records import Confusion, CurvePoint, EvalRow, MetaTestTask, PoolTask, TrainRow
from reptile_scaling.storage import columns, csv_text, read_lines, read_rows, write_lines, write_rows

TABLES = (TrainRow, EvalRow, MetaTestTask, CurvePoint, Confusion)
NAMES = st.one_of(st.sampled_from(["7", "1e3", "a,b\n", "nan", "", '"', " ", "\r"]), st.text(max_size=8))
VALUES = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    float | None: st.none() | st.floats(allow_nan=False),
    str: NAMES,
}
POOLS = st.lists(st.lists(st.integers(0, 10**6), max_size=3), max_size=3)


def rows_of(kind: type) -> st.SearchStrategy:
    """Any rows of a table."""
    return st.lists(st.builds(kind, **{field.name: VALUES[field.type] for field in fields(kind)}), max_size=5)


@pytest.mark.parametrize("kind", TABLES)
@settings(deadline=None)
@given(data=st.data())
def test_rows_come_back(kind: type, tmp_path_factory, data: st.DataObject) -> None:
    path, rows = tmp_path_factory.mktemp("rows") / "t.csv", data.draw(rows_of(kind))
    write_rows(path, kind, rows)
    found = read_rows(path, kind)
    assert found == rows
    assert all(isinstance(getattr(row, field.name), field.type) for row in found for field in fields(kind))


@given(NAMES)
def test_word_in_a_table_is_no_formula(name: str) -> None:
    _, line = csv.reader(StringIO(csv_text(Confusion, [Confusion(name, "b", 1)]), newline=""))
    assert not line[0].startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("kind", TABLES)
@given(data=st.data())
def test_tables_are_csv_to_others_too(kind: type, data: st.DataObject) -> None:
    rows = data.draw(rows_of(kind))
    table = csv.DictReader(StringIO(csv_text(kind, rows), newline=""))
    # As docs/output_files.md says.
    found = [{key: re.sub(r"^'(?='*[=+\-@\t\r])", "", cell) for key, cell in row.items()} for row in table]
    texts = [{column: getattr(row, name) for column, name in columns(kind).items()} for row in rows]
    assert found == [{column: "" if value is None else str(value) for column, value in row.items()} for row in texts]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0), st.lists(NAMES), st.none() | POOLS, st.none() | POOLS), max_size=4))
def test_pools_come_back(tmp_path_factory, drawn: list[tuple]) -> None:
    path, tasks = tmp_path_factory.mktemp("pool") / "test.jsonl", [PoolTask(*of_task) for of_task in drawn]
    write_lines(path, tasks)
    assert read_lines(path, PoolTask) == tasks


def test_confusions_are_a_table_of_class_predicted_and_n() -> None:
    assert csv_text(Confusion, [Confusion("7", "a,b", 3)]) == 'class,predicted,n\n7,"a,b",3\n'


def test_absent_and_empty_tables_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    assert read_rows(tmp_path / "absent.csv", EvalRow) == read_rows(tmp_path / "empty.csv", EvalRow) == []
    assert read_lines(tmp_path / "absent.jsonl", PoolTask) == []


BAD = {
    "cut in a row": ("inner_step,loss,accuracy\n0,1.6,0.2\n1,0.", "is not whole (row 2 is cut short)"),
    "cut in a number": ("inner_step,loss,accuracy\n0,1.6,0.2\n1,0.5,0.", "is not whole (row 2 is cut short)"),
    "cut in a quote": ('inner_step,loss,accuracy\n"0,1.6,0.2\n', "is not whole (unexpected end of data)"),
    "cut in the header": ("inner_step,lo", "has no column 'loss', so it is torn or of another program"),
    "foreign": ("a;b\n1;2\n", "has no column 'inner_step', so it is torn or of another program"),
    "no number": ("inner_step,loss,accuracy\n0,high,0.2\n", "cannot be read (loss: Input should be a valid number"),
    "no text": ("inner_step,loss,accuracy\n0,\ud800,0.2\n", "is not whole ('utf-8' codec can't decode"),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD)
def test_bad_table_is_an_input_error_with_a_cure(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(
        InputError, match=f"t.csv' {re.escape(message)}.*delete the folder it lies in, then run the same"
    ):
        read_rows(tmp_path / "t.csv", CurvePoint)


def test_torn_pool_is_an_input_error_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"task":0,"classes":["a"]}\n{"task":1,"cla')
    with pytest.raises(InputError, match=r"t.jsonl' is not whole .*: delete it, then run the same command again"):
        read_lines(tmp_path / "t.jsonl", PoolTask)
