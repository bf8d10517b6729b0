"""The toy world of the tests: a tiny model of a real architecture and a few invented intents."""

import os
import runpy
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: a test must not wait for the network
# Tiny models gain nothing from threads, and on a busy machine their barriers made one test take 288 s instead of 8.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Folders of runs in memory, where there is room: a disk takes its time over each of some hundred flushes of a sweep.
if (memory := Path("/dev/shm")).is_dir() and shutil.disk_usage(memory).free > 2e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))

from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reptile_scaling.config import Config, make_config
from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.model.loading import LanguageModel
from toy_models import tiny_model

N_CLASSES, PER_CLASS = 12, 12
VERBS = ("open", "close", "find", "move", "wash", "paint", "lift", "drop", "lock", "scan", "fold", "ship")
THINGS = ("door", "car", "box", "letter", "window", "chair", "book", "lamp", "coat", "plate", "ball", "phone")

SHAPES_CHECKED = ("analysis", "baselines", "data", "laws", "learning", "model")
"""Wings whose tests check every array's shape at every call; it would make whole sweeps take twice as long."""


def pytest_collection_finish(session: pytest.Session) -> None:
    processes = sys.modules.get("staged.processes")
    if session.items and processes:  # no items in the process that only gives tests out
        processes.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    wing = item.path.relative_to(Path(__file__).parent).parts[0]
    unchecked = wing not in SHAPES_CHECKED or item.get_closest_marker("whole_cells") is not None
    jaxtyping.config.update("jaxtyping_disable", unchecked)
    return (yield)


def data_folder() -> Path:
    """The folder of real data beside the project; skips the test where it is absent."""
    folder = Path(os.environ.get("REPTILE_SCALING_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set REPTILE_SCALING_DATA")
    return folder


@pytest.fixture(scope="session")
def banking77_folder() -> Path:
    return data_folder() / "banking77"


@pytest.fixture(scope="session")
def committed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run, 8 levels × 3 seeds, from its tables in results/."""
    root = Path(__file__).parents[1]
    tables = runpy.run_path(str(root / "scripts" / "experiment" / "part_tables.py"))
    folder = tmp_path_factory.mktemp("committed") / tables["MAIN"]
    unpacked: Path = tables["unpack"](root / "results" / tables["MAIN"], folder)
    return unpacked


@pytest.fixture(scope="session")
def toy_rows() -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return [
        (f"{verb} the {' '.join(rng.permutation(THINGS)[: rng.integers(1, 5)])} {i}", f"{verb}_it")
        for verb in VERBS[:N_CLASSES]
        for i in range(PER_CLASS)
    ]


@pytest.fixture(scope="session")
def toy_dataset(toy_rows: list[tuple[str, str]]) -> IntentDataset:
    return make_dataset("toy", toy_rows)


@pytest.fixture(scope="session")
def toy_csv(toy_rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toy.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in toy_rows))
    return path


@pytest.fixture(scope="session")
def tokenizer(toy_rows: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(
        [text for text, _ in toy_rows], trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")


@pytest.fixture
def language_model(tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return LanguageModel(tiny_model("llama", len(tokenizer)), tokenizer, "tiny")


@pytest.fixture(scope="session")
def model_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local folder in Hub layout."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_settings(model_folder: Path, toy_csv: Path) -> dict[str, object]:
    return {
        "model_name": str(model_folder), "dataset": str(toy_csv), "dtype": "float32",
        "class_split": {"train": 0.5, "validation": 0.25, "seed": 0},
        "n_tasks_list": [1, 2, 4, 8, 16], "seeds": [0, 1], "n_way": 3, "k_support": 2, "k_query": 3,
        "num_meta_test_tasks": 6, "num_validation_tasks": 3, "num_meta_steps": 4, "eval_interval": 2,
        "meta_batch_size": 2, "meta_lr": 0.5, "k_inner": 2, "inner_lr": 0.01, "lora_r": 4, "lora_layers": "top-2",
        "template": "{text}", "devices": ["cpu"], "curve_steps": [],
        "baselines": ["zero_step", "no_meta"],
    }  # fmt: skip


@pytest.fixture(scope="session")
def toy_config(toy_settings: dict[str, object]) -> Config:
    return make_config(toy_settings)
