"""Published data sets, read from local folders in the layout of their repositories; the Hub itself is out of reach."""

from pathlib import Path

import pandas as pd
import pytest

import reptile_scaling.data.hub as hub
from reptile_scaling.data.dataset import make_dataset
from reptile_scaling.data.duplicates import near_duplicates
from reptile_scaling.data.published import PUBLISHED
from reptile_scaling.data.readers import load_dataset
from reptile_scaling.errors import InputError

ROWS = [("book a table", "book"), ("reserve a seat", "book"), ("play some jazz", "play"), ("put on a song", "play")]


def write_table(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)


def lay_out(name: str, folder: Path) -> None:
    """A folder as the repository has it: train and test tables, and where labels are numbers their names."""
    if name.startswith("massive"):
        language = name[-2:]
        for part, rows in (("train", ROWS[:3]), ("test", ROWS[3:])):
            frame = pd.DataFrame(
                [{"id": i, "text": t, "label_text": c, "lang": language} for i, (t, c) in enumerate(rows)]
            )
            write_table(frame, folder / part / f"{language}.json.gz")
            write_table(frame.assign(text="not this language"), folder / part / "xx.json.gz")
        return
    numbered = PUBLISHED[name].label_names is not None
    pattern = PUBLISHED[name].tables[0]
    for part, rows in (("train", ROWS[:3]), ("test", ROWS[3:])):
        text, label = ("utterance", ["book", "play"].index) if numbered else ("text", str)
        frame = pd.DataFrame([{text: t, "label": label(c)} for t, c in rows])
        if name == "clinc150":
            frame = pd.concat([frame, pd.DataFrame([{"utterance": "who won the war", "label": None}])])
        where = (
            f"default/{part}/0000.parquet" if pattern.startswith("default") else f"data/{part}-00000-of-00001.parquet"
        )
        write_table(frame, folder / where)
    if numbered:
        names = pd.DataFrame([{"id": 0, "name": "book", "tags": None}, {"id": 1, "name": "play", "tags": None}])
        where = "intents/intents/0000.parquet" if "*/*" in PUBLISHED[name].label_names else "intents/intents-0.parquet"
        write_table(names, folder / where)


@pytest.mark.parametrize("name", PUBLISHED)
def test_local_copy_and_hub_give_the_same(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    lay_out(name, tmp_path)
    local, asked = load_dataset(name, str(tmp_path)), {}

    def snapshot(repository: str, **options: object) -> str:
        asked.update(repository=repository, **options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_dataset(name).fingerprint == local.fingerprint
    assert sorted(zip(local.texts, (local.class_names[c] for c in local.labels), strict=True)) == sorted(ROWS)
    assert asked["repository"] == PUBLISHED[name].repository and asked["repo_type"] == "dataset"
    assert len(asked["revision"]) == 40, "pinned to a commit"


def test_plain_table_and_class_lists_alone(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`utterances.csv` names its labels; a folder of class lists alone takes the utterances from the Hub."""
    plain, lists, hub_copy = tmp_path / "plain", tmp_path / "lists", tmp_path / "hub"
    (plain / "splits").mkdir(parents=True)
    (lists / "splits").mkdir(parents=True)
    rows = "".join(f"{text},{label}\n" for text, label in ROWS)
    (plain / "utterances.csv").write_text("text,category\n" + rows + "who won the war,oos\n")
    lay_out("clinc150", hub_copy)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(hub_copy))
    found = [load_dataset("clinc150", str(folder)) for folder in (plain, lists, hub_copy)]
    assert [sorted(dataset.texts) for dataset in found] == [sorted(text for text, _ in ROWS)] * 3
    assert all(dataset.class_names == ("book", "play") for dataset in found)


def test_what_is_missing_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"holds none of data/\*.parquet, utterances.csv: copy the tables of"):
        load_dataset("hwu64", str(tmp_path))
    lay_out("hwu64", tmp_path)
    (tmp_path / "intents" / "intents-0.parquet").unlink()
    with pytest.raises(InputError, match="which names the labels: copy it there"):
        load_dataset("hwu64", str(tmp_path))
    write_table(pd.DataFrame([{"id": 0, "name": "book"}]), tmp_path / "intents" / "intents-0.parquet")
    with pytest.raises(InputError, match="label 1 has no name in the table of intents"):
        load_dataset("hwu64", str(tmp_path))
    write_table(pd.DataFrame([{"id": 0, "intent": "book"}]), tmp_path / "intents" / "intents-0.parquet")
    with pytest.raises(InputError, match="lacks the column 'name'"):
        load_dataset("hwu64", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: 1 / 0)
    with pytest.raises(InputError, match=r"'DeepPavlov/hwu64' cannot be loaded from the Hub .*set data_dir"):
        hub.fetch_files("DeepPavlov/hwu64", "a" * 40, ["data/*"])


def test_columns_can_be_named_and_small_classes_left_out(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("question,text,topic,label\nhow,x,a,1\nwhy,y,a,2\nwho,z,b,3\n")
    dataset = load_dataset(str(path), None, "question", "topic", min_class_size=2)
    assert dataset.texts == ("how", "why") and dataset.class_names == ("a",)
    assert dataset.notes == ("1 classes with fewer than 2 utterances are left out",)
    with pytest.raises(InputError, match="none of heading: rename one to 'heading'"):
        load_dataset(str(path), None, "heading", "topic")
    with pytest.raises(InputError, match="min_class_size = 3 leaves no class"):
        load_dataset(str(path), None, "question", "topic", min_class_size=3)
    with pytest.raises(InputError, match="'home_assistant' has columns of its own"):
        load_dataset("home_assistant", None, "question")


def test_near_duplicates_are_pairs_of_different_classes() -> None:
    dataset = make_dataset(
        "d", [("Where is my card?", "a"), ("my card: where is?", "b"), ("where is my card now", "a"),
              ("is my card here", "b"), ("stop", "b"), ("!", "a")],
    )  # fmt: skip
    found = [
        (dataset.texts[p.first], dataset.texts[p.second], round(p.similarity, 2)) for p in near_duplicates(dataset)
    ]
    # Words in common over words in either: 4 / 4, 4 / 5; "is my card here" shares 3 of 5 or of 6 only.
    assert found == [
        ("Where is my card?", "my card: where is?", 1.0),
        ("my card: where is?", "where is my card now", 0.8),
    ]
