"""An exported labeller runs where this package cannot be imported, and says what the labeller says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reptile_scaling.config import make_config
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.storage import unseal
from reptile_scaling.use.export import export_labeller
from reptile_scaling.use.labeller import adapt_to_labels

# Importing the package from the script fails, as it would where it is not installed.
ALONE = "import runpy, sys; sys.modules['reptile_scaling'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"


def test_script_gives_the_same_probabilities_without_this_package(adapter, support_of, toy_dataset, tmp_path) -> None:
    support = support_of((0, 2, 3), (3, 2, 2))
    labeller, _ = adapt_to_labels(adapter, support, tmp_path / "out", steps=3)
    assert labeller.temperature != 1
    export_labeller(tmp_path / "out", tmp_path / "exported")
    # The second is longer than max_length, the third has blanks to fold.
    texts = [toy_dataset.texts[0], "door " * 80, "  open   the box "]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path / "exported" / "predict.py"],
        input="\n".join(texts), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = labeller.predict(texts)
    found = [[row["probabilities"][label] for label in labeller.labels] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)  # fp32, as each sums in its own order
    assert [row["label"] for row in rows] == [labeller.labels[i] for i in expected.argmax(1)]


@pytest.mark.parametrize("head", ["cosine", "words_prototype"])
def test_script_reads_the_heads_of_support_sets(head: str, toy_settings, support_of, toy_dataset, tmp_path) -> None:
    run = RunDirectory(tmp_path / "run")
    settings = {
        **toy_settings, "n_tasks_list": [2], "seeds": [0], "algorithm": "protonet", "head": head,
        "k_inner_test": 0, "baselines": [],
    }  # fmt: skip
    run_sweep(plan_sweep(make_config(settings), run), run)
    adapter = run.cell(Cell(2, 0)).adapter_folder
    labeller, done = adapt_to_labels(adapter, support_of((0, 2, 3), (3, 2, 2)), tmp_path / "out", steps=0)
    assert done.steps == 0 and done.first_loss == done.last_loss
    export_labeller(tmp_path / "out", tmp_path / "exported")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path / "exported" / "predict.py"],
        input=toy_dataset.texts[0], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = (json.loads(line)["probabilities"] for line in done.stdout.splitlines())
    expected = labeller.predict([toy_dataset.texts[0]])[0]
    np.testing.assert_allclose([found[label] for label in labeller.labels], expected, atol=1e-5)
    _, chosen = adapt_to_labels(adapter, support_of((0, 2, 3), (3, 2, 2)), tmp_path / "chosen", learning_rate=100.0)
    assert chosen.steps == 0, "steps of such a rate harm, and none is a candidate"


def test_initialisation_and_full_folder_are_refused(adapter, support_of, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no labels yet: run `adapt` first"):
        export_labeller(adapter, tmp_path / "exported")
    adapt_to_labels(adapter, support_of((0, 2), (1, 1)), tmp_path / "out")
    with pytest.raises(InputError, match="is not empty: choose another folder"):
        export_labeller(tmp_path / "out", tmp_path / "out")


def test_quantised_base_is_refused(adapter, support_of, tmp_path: Path) -> None:
    adapt_to_labels(adapter, support_of((0, 2), (1, 1)), tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "adaptation.json").read_text())
    facts["config"]["load_in_8bit"] = True
    unseal(tmp_path / "out")
    (tmp_path / "out" / "adaptation.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"is quantised \(load_in_8bit\): adapt over a plain one"):
        export_labeller(tmp_path / "out", tmp_path / "exported")
