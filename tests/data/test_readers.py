from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reptile_scaling.data.dataset import make_dataset
from reptile_scaling.data.readers import load_dataset
from reptile_scaling.errors import InputError


def test_home_assistant_has_about_80_classes_and_is_the_same_each_time() -> None:
    first, second = load_dataset("home_assistant"), load_dataset("home_assistant")
    assert first.fingerprint == second.fingerprint
    assert 70 <= len(first.class_names) <= 95
    assert min(np.bincount(first.labels)) >= 30
    assert "TurnOn-light" in first.class_names
    assert not any("{" in text or "<" in text or "[" in text for text in first.texts)


def test_original_banking77_files_are_read_whole(banking77_folder) -> None:
    dataset = load_dataset("banking77", str(banking77_folder))
    assert len(dataset.class_names) == 77
    # 10003 + 3080 rows, of which 12 repeat an utterance word for word.
    assert len(dataset.texts) == 13083 - 12
    assert {"Refund_not_showing_up", "reverted_card_payment?"} <= set(dataset.class_names)


def test_hub_layout_gives_the_same_data_as_the_original(
    banking77_folder, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mteb/banking77`: jsonl with text, label, label_text; read from a local folder of the same layout."""
    import datasets

    import reptile_scaling.data.hub as hub

    for name in ("train", "test"):
        rows = pd.read_csv(banking77_folder / f"{name}.csv").rename(columns={"category": "label_text"})
        rows["label"] = rows.label_text.astype("category").cat.codes
        rows.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    seen = {}

    def from_folder(repository: str, revision: str) -> object:
        seen.update(repository=repository, revision=revision)
        return real(str(tmp_path))

    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    rows = hub.read_hub_rows("mteb/banking77", "a" * 40)
    assert seen == {"repository": "mteb/banking77", "revision": "a" * 40}
    assert set(rows) == set(hub_rows_of(banking77_folder))


def hub_rows_of(folder: Path) -> list[tuple[str, str]]:
    parts = [pd.read_csv(folder / f"{name}.csv") for name in ("train", "test")]
    return [(row.text, row.category) for part in parts for row in part.itertuples()]


def test_text_with_two_labels_is_left_out_and_said() -> None:
    dataset = make_dataset("d", [("pay", "a"), ("pay", "b"), ("go  home", "a"), ("go home", "a"), ("stop", "b")])
    assert dataset.texts == ("go home", "stop")
    assert dataset.notes == (
        "1 utterances carry two labels and are left out",
        "1 rows repeat an utterance and are left out",
    )


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_any_table_format_gives_the_same_data(ending: str, tmp_path) -> None:
    frame = pd.DataFrame({"utterance": ["a b", 'c, "d"', "e\nf"], "intent": ["x", "y", "x"]})
    path = tmp_path / f"t.{ending}"
    write = {"csv": lambda: frame.to_csv(path, index=False), "parquet": lambda: frame.to_parquet(path)}
    write.get(ending, lambda: frame.to_json(path, orient="records", lines=True))()
    dataset = load_dataset(str(path))
    assert dataset.texts == ("a b", 'c, "d"', "e f")
    assert dataset.class_names == ("x", "y")


def test_windows_file_with_byte_order_mark_is_read(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\ufefftext,label\r\nhällo,a\r\nbye,b\r\n".encode())
    assert load_dataset(str(path)).texts == ("hällo", "bye")


BAD_FILES = {
    "no text column": (b"words,label\na,b\n", "has the columns words, label, none of text, utterance"),
    "no label column": (b"text,kind\na,b\n", "none of label_text, category"),
    "empty text": (b"text,label\na,b\n  ,b\n", "row 2 has an empty 'text': fill it in or delete the row"),
    "empty label": (b"text,label\na,\n", "row 1 has an empty 'label'"),
    "not UTF-8": ("text,label\nh\xe4llo,b\n".encode("latin-1"), "is not UTF-8 .*: save it as UTF-8"),
    "no rows": (b"text,label\n", "holds no usable utterance"),
    "nothing at all": (b"", "is no csv table"),
    "ragged rows": (b"text,label\na,b\nc,d,e,f\n", "is no csv table"),
}


@pytest.mark.parametrize("content, message", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_an_input_error(content: bytes, message: str, tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_dataset(str(path))


def test_unknown_names_and_paths_are_input_errors(tmp_path) -> None:
    with pytest.raises(InputError, match="dataset 'bancing77' is unknown: use banking77, home_assistant"):
        load_dataset("bancing77")
    with pytest.raises(InputError, match="'nowhere.csv' does not exist: check the path"):
        load_dataset("nowhere.csv")
    with pytest.raises(InputError, match="data_dir '/no/such/folder' is not a folder"):
        load_dataset("banking77", "/no/such/folder")
    with pytest.raises(InputError, match="train.csv' does not exist"):
        load_dataset("banking77", str(tmp_path))
