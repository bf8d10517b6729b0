"""Class splits: drawn, published, across two data sets."""

from pathlib import Path

import pytest

from reptile_scaling.config import make_config
from reptile_scaling.data.banking77 import read_published_split
from reptile_scaling.data.class_split import check_class_sizes, split_classes
from reptile_scaling.data.dataset import make_dataset
from reptile_scaling.data.readers import load_dataset
from reptile_scaling.errors import InputError
from reptile_scaling.learning.workbench import open_corpus
from reptile_scaling.runs import RunDirectory
from reptile_scaling.sweep import plan_sweep, run_sweep

DATASET = make_dataset("d", [(f"text {c} {i}", f"class{c:02d}") for c in range(20) for i in range(20)])


@pytest.mark.parametrize("number", range(1, 6))
def test_published_splits_are_class_disjoint_25_25_27(banking77_folder, number: int) -> None:
    config = make_config(
        {"dataset": "banking77", "data_dir": str(banking77_folder), "class_split": f"protaugment-0{number}"}
    )
    split = split_classes(load_dataset("banking77", str(banking77_folder)), config)
    assert [len(p) for p in (split.train, split.validation, split.test)] == [25, 25, 27]
    assert set(split.train) | set(split.validation) | set(split.test) == set(range(77))


def test_small_class_is_an_input_error_whose_cure_works() -> None:
    dataset = make_dataset("d", [(f"t {i}", "small") for i in range(12)] + [(f"u {i}", "big") for i in range(40)])
    with pytest.raises(InputError, match=r"k_support \+ k_query = 20, but class 'small' has 12 .* lower k_query to 7"):
        check_class_sizes(dataset, make_config({"k_query": 15}))
    check_class_sizes(dataset, make_config({"k_query": 7}))


def test_too_few_classes_for_a_part_is_an_input_error() -> None:
    config = make_config({"class_split": {"train": 0.8, "validation": 0.1}})
    with pytest.raises(InputError, match="n_way = 5, but the validation part of 'd' has only 2 of 20 classes"):
        split_classes(DATASET, config)


def test_published_split_needs_its_class_lists(tmp_path) -> None:
    with pytest.raises(InputError, match=r"needs the published class lists, but data_dir is not set: set data_dir"):
        read_published_split("protaugment-01", None)
    with pytest.raises(InputError, match="holds splits/02.json"):
        read_published_split("protaugment-02", tmp_path)


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
    assert {c for task in run.read_pool("test") for c in task["classes"]} <= {"clean", "push", "seek", "shut"}
    assert len(run.results()) == 2


def test_a_test_set_of_the_same_classes_is_refused(toy_csv, toy_settings) -> None:
    with pytest.raises(InputError, match="shares 12 of its 12 classes with 'toy.csv'"):
        open_corpus(make_config({**toy_settings, "test_dataset": str(toy_csv)}))
