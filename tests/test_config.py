import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reptile_scaling.config import Config, load_config, make_config, parse_override
from reptile_scaling.errors import InputError

BAD = {
    "unknown key": ({"n_wey": 5}, "unknown key 'n_wey': did you mean 'n_way'?"),
    "unknown key of the split": (
        {"class_split": {"trian": 0.5}},
        "unknown key 'class_split.trian': did you mean 'train'",
    ),
    "one way": ({"n_way": 1}, "n_way = 1 cannot work: it should be greater than or equal to 2"),
    "no support": ({"k_support": 0}, "k_support = 0 cannot work"),
    "empty grid": ({"n_tasks_list": []}, r"n_tasks_list = [] leaves nothing to run: give it at least one value"),
    "no seeds": ({"seeds": []}, "seeds = [] leaves nothing to run"),
    "level twice": ({"n_tasks_list": [2, 4, 2]}, "n_tasks_list names 2 twice: list each value once"),
    "level of zero tasks": ({"n_tasks_list": [0, 2]}, "n_tasks_list = 0 cannot work"),
    "word for a number": ({"inner_lr": "fast"}, "inner_lr = 'fast' cannot work"),
    "negative rate": ({"inner_lr": -1}, "inner_lr = -1 cannot work: it should be greater than 0"),
    "NaN rate": ({"inner_lr": float("nan")}, "inner_lr = nan cannot work"),
    "infinite rate": ({"meta_lr": float("inf")}, "meta_lr = inf cannot work: it should be a finite number"),
    "no test classes": (
        {"class_split": {"train": 0.9, "validation": 0.2}},
        "leaves no test classes: lower one of them",
    ),
    "unknown layers": ({"lora_layers": "top-0"}, "lora_layers = 'top-0' is not a choice: use 'all' or 'top-2'"),
    "template without text": ({"template": "one word:"}, "template = 'one word:' must contain {text} exactly once"),
    "full dropout": ({"lora_dropout": 1.0}, "lora_dropout = 1.0 cannot work"),
    "short prompts": ({"max_length": 4}, "max_length = 4 cannot work"),
}


@pytest.mark.parametrize("settings, message", BAD.values(), ids=BAD)
def test_bad_value_is_named_with_its_cure(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make_config(settings)


def test_mission_keeps_its_figures() -> None:
    config = load_config("mission")
    assert (config.n_way, config.k_support, config.k_query, config.k_inner) == (5, 5, 15, 5)
    assert (config.inner_lr, config.meta_lr, config.meta_batch_size) == (5e-4, 0.1, 4)
    assert (config.num_meta_steps, config.eval_interval, config.num_meta_test_tasks) == (10_000, 500, 200)
    assert config.n_tasks_list == (50, 100, 300, 1000)
    assert len(config.devices) == 4


def test_override_wins_over_the_file(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("k_inner: 3\nclass_split: {train: 0.5, validation: 0.2, seed: 1}\n")
    config = load_config(path, ("k_inner=7", "seeds=[4, 5]", "inner_lr=1e-3", "devices=cpu"))
    assert (config.k_inner, config.seeds, config.inner_lr, config.devices) == (7, (4, 5), 1e-3, ("cpu",))


@pytest.mark.parametrize(
    "content, message",
    [
        ("k_inner: [3", "is not YAML"),
        ("- 1\n- 2\n", "holds no `key: value` lines"),
        ("", "holds no `key: value` lines"),
    ],
)
def test_bad_file_is_an_input_error(content: str, message: str, tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_config(path)


def test_missing_file_is_an_input_error() -> None:
    with pytest.raises(InputError, match="'nowhere.yaml' does not exist, nor is it a preset .*: check the path"):
        load_config("nowhere.yaml")


@given(st.text(max_size=30))
def test_override_is_parsed_or_refused_in_one_sentence(text: str) -> None:
    try:
        key, _ = parse_override(text)
        assert key
    except InputError as error:
        assert "\n" not in str(error).replace(repr(text), "")


@given(
    st.dictionaries(
        st.sampled_from(list(Config.model_fields)),
        st.one_of(st.none(), st.integers(), st.text(), st.floats()),
        max_size=4,
    )
)
def test_any_values_give_a_config_or_an_input_error(settings: dict[str, object]) -> None:
    try:
        make_config(settings)
    except InputError as error:
        assert str(error)
