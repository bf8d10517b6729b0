"""Class splits: drawn, published, across two data sets."""

import json
from pathlib import Path

import pytest

from conftest import data_folder
from reptile_scaling.config import make_config
from reptile_scaling.data.class_lists import class_lists, read_class_lists
from reptile_scaling.data.class_split import check_class_sizes, split_classes
from reptile_scaling.data.dataset import make_dataset
from reptile_scaling.data.readers import load_dataset
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.learning.workbench import open_corpus
from reptile_scaling.runs.directory import RunDirectory

DATASET = make_dataset("d", [(f"text {c} {i}", f"class{c:02d}") for c in range(20) for i in range(20)])


PUBLISHED_SIZES = {"banking77": [25, 25, 27], "clinc150": [50, 50, 50]}


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
@pytest.mark.parametrize("number", range(1, 6))
def test_published_splits_are_class_disjoint_and_whole(name: str, number: int) -> None:
    folder = str(data_folder() / name)
    config = make_config({"dataset": name, "data_dir": folder, "class_split": f"protaugment-0{number}"})
    dataset = load_dataset(name, folder)
    split = split_classes(dataset, config)
    assert [len(part) for part in (split.train, split.validation, split.test)] == PUBLISHED_SIZES[name]
    assert {*split.train, *split.validation, *split.test} == set(range(len(dataset.class_names)))


def test_local_clinc150_is_the_published_one() -> None:
    dataset = load_dataset("clinc150", str(data_folder() / "clinc150"))
    # Larson et al. 2019: 150 intents of 150 utterances; a few are repeated or stand under two intents.
    assert len(dataset.class_names) == 150
    assert 22_400 < len(dataset.texts) <= 22_500


@pytest.fixture
def split_folder(toy_csv, toy_dataset, tmp_path) -> Path:
    """A table, and beside it class lists 4/4/4 as `01.json`, and the same in reverse as `reverse.json`."""
    (tmp_path / "splits").mkdir()
    (tmp_path / toy_csv.name).write_bytes(toy_csv.read_bytes())
    names = toy_dataset.class_names
    for stem, order in (("01", names), ("reverse", names[::-1])):
        parts = {"train": order[:4], "valid": order[4:8], "test": order[8:]}
        (tmp_path / "splits" / f"{stem}.json").write_text(json.dumps(parts))
    return tmp_path


def test_any_data_set_takes_class_lists_by_name(split_folder, toy_settings, toy_csv, toy_dataset) -> None:
    settings = {**toy_settings, "dataset": toy_csv.name, "data_dir": str(split_folder)}
    numbered = open_corpus(make_config({**settings, "class_split": "protaugment-01"})).split
    reverse = open_corpus(make_config({**settings, "class_split": "reverse"})).split
    assert [toy_dataset.class_names[c] for c in numbered.train] == list(toy_dataset.class_names[:4])
    assert (numbered.train, numbered.validation, numbered.test) == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert (reverse.train, reverse.test) == ((11, 10, 9, 8), (3, 2, 1, 0))


def test_unknown_name_is_refused_with_the_names_there_are(split_folder, toy_settings, toy_csv, tmp_path) -> None:
    settings = {**toy_settings, "dataset": toy_csv.name, "data_dir": str(split_folder), "model_name": "nobody/nothing"}
    config = make_config({**settings, "class_split": "protaugment-06"})
    # A sweep's plan loads no model, and this model could not be loaded.
    with pytest.raises(InputError, match=r"'protaugment-06' is unknown: .* has protaugment-01, reverse; use one of"):
        plan_sweep(config, RunDirectory(tmp_path / "run"))
    # A name is never a path.
    with pytest.raises(InputError, match="is unknown"):
        open_corpus(make_config({**settings, "class_split": "../splits/01"}))


def test_file_of_the_whole_name_comes_before_the_numbered_one(tmp_path) -> None:
    (tmp_path / "splits").mkdir()
    for stem in ("01", "protaugment-01"):
        (tmp_path / "splits" / f"{stem}.json").write_text("{}")
        assert class_lists(tmp_path) == {"protaugment-01": tmp_path / "splits" / f"{stem}.json"}


def test_class_lists_that_are_absent_say_where_they_belong(tmp_path) -> None:
    with pytest.raises(InputError, match=r"needs published class lists, but data_dir is not set: set data_dir"):
        read_class_lists("protaugment-01", None)
    with pytest.raises(InputError, match="splits' holds none: set data_dir to a folder that holds splits/02.json"):
        read_class_lists("protaugment-02", tmp_path)


CLASS_LISTS = {
    "not JSON": ("{", "01.json' cannot be read .*: make it a JSON object of three lists"),
    "no test part": ('{"train": [], "valid": []}', "KeyError: 'test'"),
    "numbers for lists": ('{"train": 1, "valid": 2, "test": 3}', "TypeError"),
}


@pytest.mark.parametrize("content, message", CLASS_LISTS.values(), ids=CLASS_LISTS)
def test_bad_class_lists_are_an_input_error(content: str, message: str, tmp_path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "01.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_class_lists("protaugment-01", tmp_path)


@pytest.mark.parametrize("overlapping", [True, False])
def test_class_in_two_parts_is_refused(overlapping: bool, banking77_folder, tmp_path) -> None:
    parts = json.loads((banking77_folder / "splits" / "01.json").read_text())
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_bytes((banking77_folder / f"{name}.csv").read_bytes())
    shared = parts["test"][0] if overlapping else "no_such_intent"
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "01.json").write_text(json.dumps({**parts, "train": [shared, *parts["train"][1:]]}))
    config = make_config({"dataset": "banking77", "data_dir": str(tmp_path), "class_split": "protaugment-01"})
    with pytest.raises(InputError, match=shared):
        open_corpus(config)


def test_small_class_is_an_input_error_whose_cure_works() -> None:
    dataset = make_dataset("d", [(f"t {i}", "small") for i in range(12)] + [(f"u {i}", "big") for i in range(40)])
    with pytest.raises(InputError, match=r"k_support \+ k_query = 20, but class 'small' has 12 .* lower k_query to 7"):
        check_class_sizes(dataset, make_config({"k_query": 15}))
    check_class_sizes(dataset, make_config({"k_query": 7}))


def test_too_few_classes_for_a_part_is_an_input_error() -> None:
    config = make_config({"class_split": {"train": 0.8, "validation": 0.1}})
    with pytest.raises(InputError, match="n_way = 5, but the validation part of 'd' has only 2 of 20 classes"):
        split_classes(DATASET, config)


@pytest.fixture
def other_csv(toy_rows, tmp_path) -> Path:
    """Five classes, one of which the toy data has under another spelling, and a text of it under a new label."""
    renamed = {"open_it": "Open It", "close_it": "shut", "find_it": "seek", "move_it": "push", "wash_it": "clean"}
    rows = [(f"please {text}", renamed[label]) for text, label in toy_rows if label in renamed]
    rows.append((toy_rows[0][0], "shut"))
    path = tmp_path / "other.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return path


def test_meta_train_here_and_meta_test_there(other_csv, toy_settings, toy_dataset, tmp_path) -> None:
    settings = {**toy_settings, "test_dataset": str(other_csv), "n_tasks_list": [2, 4], "seeds": [0]}
    config = make_config(settings)
    corpus = open_corpus(config)
    names = corpus.dataset.class_names
    assert sorted(names[c] for c in corpus.split.test) == ["clean", "push", "seek", "shut"]
    assert all(names[c] in toy_dataset.class_names for c in (*corpus.split.train, *corpus.split.validation))
    assert len(set(corpus.dataset.texts)) == len(corpus.dataset.texts)
    assert any("1 classes of other.csv are in toy.csv too" in note for note in corpus.dataset.notes)
    assert any("1 utterances of other.csv are in toy.csv too" in note for note in corpus.dataset.notes)
    run = RunDirectory(tmp_path / "run")
    run_sweep(plan_sweep(config, run), run)
    assert {c for task in run.read_pool("test") for c in task.classes} <= {"clean", "push", "seek", "shut"}
    assert len(run.results()) == 2


def test_a_test_set_of_the_same_classes_is_refused(toy_csv, toy_settings) -> None:
    with pytest.raises(InputError, match="shares 12 of its 12 classes with 'toy.csv'"):
        open_corpus(make_config({**toy_settings, "test_dataset": str(toy_csv)}))
