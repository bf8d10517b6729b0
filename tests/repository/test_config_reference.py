"""docs/config.md is what its script makes of the code."""

import re
import runpy
from pathlib import Path

import pytest

from reptile_scaling.config import IN_ADAPTER, MAY_CHANGE, Config, key_groups, keys_with
from reptile_scaling.data.readers import READERS
from reptile_scaling.lab.executors import EXECUTORS
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.model.heads import HEADS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
# Names that others rely on: the mission's, and ours.
PROMISED = {
    "model_name", "n_way", "k_support", "k_query", "inner_lr", "meta_lr", "k_inner", "meta_batch_size",
    "inner_batch_size", "num_meta_steps", "eval_interval", "num_meta_test_tasks", "devices", "load_in_8bit", "lora_r",
    "lora_alpha", "lora_dropout", "max_length", "seed_meta_test", "seed_train_base", "n_tasks_list", "seeds",
    "dataset", "data_dir", "class_split", "task_examples", "algorithm", "head", "lora_layers", "lora_targets",
    "dtype", "executor", "slots", "class_splits",
}  # fmt: skip


def test_committed_page_is_the_generated_one() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "docs" / "config_reference.py"))["reference"]()
    assert made == PAGE, "run `make docs`"


def test_facts_stand_beside_their_keys() -> None:
    """The grid and the machine may change; what the inner loop and its base are goes with an adapter."""
    may_change, in_adapter = (set(keys_with(fact)) for fact in (MAY_CHANGE, IN_ADAPTER))
    assert {
        "n_tasks_list",
        "axis_values",
        "seeds",
        "data_dir",
        "class_splits",
        "baselines",
        *key_groups()["Machine"],
    } == may_change
    loop = {"algorithm", "head", "label_words", "n_way", "k_support", "names_in_support", "k_inner", "k_inner_test"}
    rates = {"inner_lr", "inner_optimizer", "inner_rates", "inner_batch_size"}
    assert {*key_groups()["Model"], *loop, *rates, *key_groups()["LoRA"]} - {"lora_dropout"} == in_adapter


def test_page_has_every_key_once_and_in_the_order_of_the_code() -> None:
    keys = re.findall(r"^- \*\*`(\w+):", PAGE.split("## Fractions")[0], flags=re.MULTILINE)
    assert keys == list(Config.model_fields)
    assert set(keys) >= PROMISED


@pytest.mark.parametrize(
    "key, known", [("dataset", READERS), ("algorithm", ALGORITHMS), ("head", HEADS), ("executor", EXECUTORS)]
)
def test_sentence_of_a_key_names_what_its_dict_holds(key: str, known: dict[str, object]) -> None:
    assert all(f"`{name}`" in str(Config.model_fields[key].description) for name in known)


def test_lines_of_the_page_are_short() -> None:
    assert max(map(len, PAGE.splitlines())) <= 120
