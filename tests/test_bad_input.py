"""Data, adapters and run folders as people really have them: each fault is one sentence with a cure.

Configurations have their tables in test_config.py, command lines theirs in test_cli.py, class lists in data/.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reptile_scaling.config import Config, make_config
from reptile_scaling.data.dataset import make_dataset
from reptile_scaling.data.files import rows_of
from reptile_scaling.data.readers import load_dataset
from reptile_scaling.errors import InputError
from reptile_scaling.learning.workbench import open_corpus
from reptile_scaling.model.peft_io import load_adapter
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

GOOD = "".join(f"{label} {i},{label}\n" for label in "abcdefgh" for i in range(8))


def table(folder: Path, content: str | bytes, name: str = "t.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def parquet(folder: Path, frame: pd.DataFrame) -> str:
    frame.to_parquet(folder / "t.parquet")
    return str(folder / "t.parquet")


SMALL = {"n_way": 2, "k_support": 2, "k_query": 3, "class_split": {"train": 0.4, "validation": 0.3, "seed": 0}}

BAD_DATA: dict[str, tuple[Callable[[Path], str], str]] = {
    "class of one example": (
        lambda f: table(f, "text,label\n" + GOOD + "lonely,z\n"),
        "k_support . k_query = 5, but class 'z' has 1 examples: lower k_support and k_query, or drop the class",
    ),
    "class a little too small": (
        lambda f: table(f, "text,label\n" + GOOD + "".join(f"z {i},z\n" for i in range(4))),
        "class 'z' has 4 examples: lower k_query to 2 or less",
    ),
    "too few classes": (
        lambda f: table(f, "text,label\n" + GOOD[: GOOD.index("d 0")]),
        "has only 1 of 3 classes: lower n_way or give class_split a larger share",
    ),
    "every row twice with two labels": (
        lambda f: table(f, "text,label\n" + "".join(f"same {i},a\nsame {i},b\n" for i in range(9))),
        "holds no usable utterance",
    ),
    "null text in jsonl": (
        lambda f: table(f, '{"text": null, "label": "a"}\n', "t.jsonl"),
        "row 1 has an empty 'text': fill it in or delete the row",
    ),
    "null label in parquet": (
        lambda f: parquet(f, pd.DataFrame({"text": ["a", "b"], "label": ["x", None]})),
        "row 2 has an empty 'label'",
    ),
    "jsonl with a torn line": (
        lambda f: table(f, '{"text": "a", "label": "b"}\n{"text": "c", "la', "t.jsonl"),
        "is no jsonl table",
    ),
    "jsonl that is one JSON list": (lambda f: table(f, "[1, 2]", "t.jsonl"), "has the columns 0, 1, none of text"),
    "parquet that is not": (lambda f: table(f, b"PAR1 nothing", "t.parquet"), "is no parquet table"),
    "csv with one quote too many": (lambda f: table(f, 'text,label\n"a,b\n'), "is no csv table"),
    "UTF-16": (lambda f: table(f, "text,label\na,b\n".encode("utf-16")), "is not UTF-8 .*: save it as UTF-8"),
    "a binary file": (lambda f: table(f, bytes(range(256)) * 8), "is not UTF-8|is no csv table"),
    "a folder": (lambda f: str(f), "is unknown: use banking77"),
    "a spreadsheet": (lambda f: table(f, "x", "t.xlsx"), "is unknown: use banking77.* or the path of a .csv"),
    "headers with spaces": (lambda f: table(f, " text , label \na,b\n"), "none of text, utterance"),
    "semicolons": (lambda f: table(f, "text;label\na;b\n"), "has the columns text;label, none of text"),
}


@pytest.mark.parametrize("make, message", BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_named_with_its_cure(make: Callable[[Path], str], message: str, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        open_corpus(make_config({**SMALL, "dataset": make(tmp_path)}))


def test_cure_for_a_small_class_works(tmp_path) -> None:
    path = table(tmp_path, "text,label\n" + GOOD + "".join(f"z {i},z\n" for i in range(4)))
    assert open_corpus(make_config({**SMALL, "dataset": path, "k_query": 2})).dataset.class_names[-1] == "z"


def test_text_of_a_megabyte_and_labels_like_paths_are_data_like_any_other(tmp_path) -> None:
    rows = "".join(
        f"{label} {i},{label}\n" for label in ("../../etc/passwd", "a/b", "<script>", "Ünïcode") for i in "12"
    )
    dataset = load_dataset(table(tmp_path, f"text,label\r\n{'word ' * 200_000},a/b\r\n{rows}"))
    assert dataset.class_names == ("../../etc/passwd", "<script>", "a/b", "Ünïcode")
    assert max(map(len, dataset.texts)) == 999_999


def test_row_that_stands_in_train_and_test_file_is_one_utterance(tmp_path) -> None:
    (tmp_path / "train.csv").write_text("text,category\nwhere is my card,card_arrival\nhelp me,help\n")
    (tmp_path / "test.csv").write_text("text,category\nwhere is my card,card_arrival\n")
    dataset = load_dataset("banking77", str(tmp_path))
    assert dataset.texts == ("where is my card", "help me")
    assert dataset.notes == ("1 rows repeat an utterance and are left out",)


BAD_ADAPTERS = {
    "empty folder": ({}, "has no adapter_model.safetensors: give the adapter/ folder of a finished cell"),
    "no head": ({"adapter_model.safetensors": b""}, "has no head.safetensors"),
    "torn weights": (
        {"adapter_model.safetensors": b"torn", "head.safetensors": b"torn"},
        "is not whole .*copy it again",
    ),
}


@pytest.mark.parametrize("files, message", BAD_ADAPTERS.values(), ids=BAD_ADAPTERS)
def test_bad_adapter_is_an_input_error(files: dict[str, bytes], message: str, tmp_path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_adapter(tmp_path, torch.device("cpu"))


def test_head_of_another_kind_is_an_input_error(tmp_path) -> None:
    from safetensors.torch import save_file

    for name in ("adapter_model.safetensors", "head.safetensors"):
        save_file({"base_model.model.x.lora_A.weight": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(InputError, match="head.safetensors' holds base_model.model.x.lora_A.weight: give a cell's"):
        load_adapter(tmp_path, torch.device("cpu"))


def test_torn_files_of_a_run_are_named_or_forgotten(tmp_path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.begin(Config(), "f" * 64, {})
    status = run.cell(Cell(2, 0)).path / "status.json"
    status.parent.mkdir(parents=True)
    status.write_text('{"state": "runn')
    assert run.cell(Cell(2, 0)).read_status().state == "pending"
    (run.path / "experiment.json").write_text('{"config": {')
    with pytest.raises(InputError, match=r"experiment.json' is not whole .*: delete it, then run the same command"):
        run.experiment()


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=3)), max_size=12))
def test_any_rows_become_distinct_utterances_or_an_input_error(rows: list[tuple[str, str]]) -> None:
    try:
        dataset = make_dataset("any", rows)
    except InputError as error:
        assert "give it rows with a text and a label" in str(error)
        return
    assert len(set(dataset.texts)) == len(dataset.texts) <= len(rows)
    assert all(text == " ".join(text.split()) and text for text in dataset.texts)
    assert np.bincount(dataset.labels).min() >= 1


@settings(deadline=None)  # pandas warms up
@given(
    st.dictionaries(st.text(max_size=5), st.lists(st.one_of(st.none(), st.text(max_size=4)), min_size=2, max_size=2))
)
def test_any_table_gives_rows_or_an_input_error(columns: dict[str, list[str | None]]) -> None:
    try:
        rows = rows_of(pd.DataFrame(columns), "t.csv")
    except InputError as error:
        assert str(error).startswith("t.csv")
        return
    assert all(text.strip() and label.strip() for text, label in rows)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content: bytes) -> None:
    path = table(tmp_path_factory.mktemp("bytes"), content)
    try:
        assert load_dataset(path).texts
    except InputError as error:
        assert str(error)
