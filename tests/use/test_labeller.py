"""Adapting to one's own labels and labelling texts: the engine's own loop, PEFT's own forward, and every refusal."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from staged.processes import call

from reptile_scaling.config import make_config
from reptile_scaling.data.episodes import TaskPool
from reptile_scaling.data.files import read_file
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import test_loop as loop_of
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.starts import starting_points
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import open_corpus, open_workbench
from reptile_scaling.model.peft_io import load_adapter
from reptile_scaling.use.agreement import wilson_interval
from reptile_scaling.use.labeller import adapt_to_labels, engine_for_texts, open_labeller
from test_cli import refused


@pytest.mark.parametrize(
    ("head", "names"), [("classifier", False), ("zero", False), ("prototype", False), ("prototype", True)]
)
def test_same_shape_as_in_training_is_the_loop_of_evaluation(
    head: str, names: bool, adapter, toy_settings, support_of, tmp_path
) -> None:
    """n_way classes of k_support shots: the adapted parameters are those that meta-test would have."""
    copy = with_facts(adapter, tmp_path / "adapter", head=head, names_in_support=names)
    support = support_of((1, 4, 7), (2, 2, 2))
    labeller, done = adapt_to_labels(copy, support, tmp_path / "out", steps=3)
    config = make_config({**toy_settings, "k_inner_test": 3, "head": head})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    pool = TaskPool(support, (0, 1, 2), 0, "train", n_way=3, k_support=1, k_query=1)
    rows = np.stack([support.utterances_by_class[c] for c in range(3)])
    texts, shots = support.texts, rows
    if names:
        texts = (*texts, *(name.replace("_", " ") for name in support.class_names))
        shots = np.column_stack([rows, len(rows) * 2 + np.arange(3)])
    episode = replace(pool.episode(0), classes=(0, 1, 2), support=shots, query=rows)
    engine = engine_for_texts(workbench.engine.backbone, texts, config)
    theta = starting_points(engine, load_adapter(copy, torch.device("cpu")), [(0, 1, 2)], head)
    expected = adapt_in_groups(engine, TaskBatch(theta, [episode], loop_of(config)))
    torch.testing.assert_close(labeller.adapters.tensors, expected.adapters.tensors, rtol=1e-5, atol=1e-6)
    assert done.steps == 3 and done.first_loss == pytest.approx(float(expected.losses[0, 0]), abs=1e-6)


def with_facts(adapter: Path, folder: Path, **changed: object) -> Path:
    """A copy whose adaptation.json says something else."""
    folder.mkdir()
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    facts = json.loads((folder / "adaptation.json").read_text())
    facts["config"] |= changed
    (folder / "SHA256SUMS").unlink(missing_ok=True)  # the change is ours
    (folder / "adaptation.json").write_text(json.dumps(facts))
    return folder


def test_unequal_shots_and_another_number_of_classes(adapter, support_of, tmp_path) -> None:
    support = support_of((0, 2, 3, 5, 9), (1, 4, 2, 6, 3))
    labeller, done = adapt_to_labels(adapter, support, tmp_path / "out", steps=9, learning_rate=0.005)
    assert labeller.labels == support.class_names and done.n_support == 16
    assert done.first_loss == pytest.approx(np.log(5), abs=1e-4), "a head of equal rows is at chance"
    probabilities = labeller.predict(list(support.texts))
    np.testing.assert_allclose(probabilities.sum(1), 1)
    again = open_labeller(tmp_path / "out")
    np.testing.assert_allclose(again.predict(list(support.texts)), probabilities, atol=1e-6)
    longer, more = adapt_to_labels(adapter, support, tmp_path / "longer", steps=40, learning_rate=0.005)
    assert more.steps == 40 and more.last_loss < done.last_loss
    assert longer.evaluate(list(support.texts), [support.class_names[c] for c in support.labels]).accuracy >= 0.5


def test_probabilities_equal_those_of_peft_by_hand(adapter, toy_dataset, support_of, model_folder, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    support = support_of((0, 2, 3), (3, 1, 2))
    labeller, _ = adapt_to_labels(adapter, support, tmp_path / "out", steps=3)
    texts = [*toy_dataset.texts[:7], "a word nobody has seen"]
    ours = labeller.predict(texts)
    base, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    model = PeftModel.from_pretrained(base, tmp_path / "out").get_base_model().base_model
    head = safetensors.torch.load_file(tmp_path / "out" / "head.safetensors")
    for row, text in enumerate(texts):
        feature = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1]
        scores = (head["head.weight"] @ feature + head["head.bias"]) / labeller.temperature
        np.testing.assert_allclose(ours[row], scores.softmax(0).detach().numpy(), atol=1e-4)


def test_evaluation_counts_as_numpy_does(adapter, support_of, tmp_path) -> None:
    support = support_of((0, 2, 3), (3, 3, 3))
    labeller, _ = adapt_to_labels(adapter, support, tmp_path / "out", steps=3)
    rest = support_of((0, 2), (12, 9))
    truth = [rest.class_names[c] for c in rest.labels]
    found, probabilities = labeller.evaluate(list(rest.texts), truth), labeller.predict(list(rest.texts))
    right = np.array([labeller.labels[p.argmax()] == label for p, label in zip(probabilities, truth, strict=True)])
    assert found.accuracy == pytest.approx(right.mean()) and found.n == 21
    for label, recall in found.recall.items():
        assert recall == pytest.approx(right[[name == label for name in truth]].mean())
    own = [p[labeller.labels.index(label)] for p, label in zip(probabilities, truth, strict=True)]
    assert found.loss == pytest.approx(-np.log(own).mean())
    low, high = found.accuracy_ci95
    assert 0 <= low <= found.accuracy <= high <= 1


def test_wilson_interval_agrees_with_scipy() -> None:
    from scipy.stats import binomtest

    for n_correct, n in ((0, 5), (5, 5), (13, 40), (999, 1000)):
        expected = binomtest(n_correct, n).proportion_ci(method="wilson")
        assert wilson_interval(n_correct, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_command_line_from_table_to_labels(adapter, support_of, tmp_path) -> None:
    support = tmp_path / "mine.csv"
    rows = support_of((0, 2, 3), (3, 2, 4))
    pd.DataFrame({"utterance": rows.texts, "intent": [rows.class_names[c] for c in rows.labels]}).to_csv(support)
    out = tmp_path / "out"
    done = call("adapt", "--adapter", adapter, "--support", support, "--out", out, "--evaluate", support)
    assert done.returncode == 0, done.stderr
    assert "9 utterances of 3 labels" in done.stdout and "accuracy" in done.stdout and "recall" in done.stdout
    said = call("predict", "--adapter", out, "--input", support, "--evaluate")
    assert said.returncode == 0 and "expected calibration error" in said.stderr
    assert "chosen by 9 support utterances left out in turn" in done.stdout
    shy = call("predict", "--adapter", out, "--input", support, "--evaluate", "--abstain-below", "1")
    assert "answered 0 of 9 texts (0.0%)" in shy.stderr and "accuracy" not in shy.stderr
    assert pd.read_csv(io.StringIO(shy.stdout))["label"].isna().all()
    table = pd.read_csv(io.StringIO(said.stdout))
    assert list(table.columns) == ["text", "label", "probability"] and list(table["text"]) == list(rows.texts)
    command = [sys.executable, "-c", "from reptile_scaling.cli import main; main()"]
    piped = subprocess.run(
        [*command, "predict", "--adapter", str(out), "--input", "-", "--json"],
        input="open the door\n\nopen the door\n", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    first, second = map(json.loads, piped.stdout.splitlines())
    assert first == second and set(first["probabilities"]) == set(rows.class_names)
    assert call("predict", "--adapter", out, "--input", support, "--out", tmp_path / "labels.csv").stdout == ""
    assert (tmp_path / "labels.csv").read_text() == said.stdout


def test_refusals_name_value_and_cure(adapter, toy_dataset, tmp_path, monkeypatch, capsys) -> None:
    support = tmp_path / "mine.csv"
    support.write_text("text,label\na b,x\nc d,y\n")
    (tmp_path / "one.csv").write_text("text,label\na b,x\nc d,x\n")
    (tmp_path / "none.csv").write_text("name\na\n")
    (tmp_path / "unknown.csv").write_text("text,label\na b,z\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "letter").touch()
    adapted = tmp_path / "adapted"
    adapt_to_labels(adapter, read_file(support), adapted)
    other = with_facts(adapter, tmp_path / "other", lora_layers="all")

    def adapting(*extra: object, to: str = "new", start: Path = adapter, data: Path = support) -> str:
        arguments = ["adapt", "--adapter", start, "--support", data, "--out", tmp_path / to, *extra]
        return refused(arguments, monkeypatch, capsys)

    assert "at least two labels" in adapting(data=tmp_path / "one.csv")
    assert "none of text" in adapting(data=tmp_path / "none.csv")
    assert "does not exist" in adapting(data=tmp_path / "nowhere.csv")
    assert "is not empty: choose another folder" in adapting(to="used")
    assert "has no adaptation.json" in adapting(start=tmp_path / "used")
    assert "does not fit the model" in adapting(start=other)
    assert "nowhere" in adapting("--model", "./nowhere")
    assert "has no labels yet: run `adapt`" in predicting(adapter, support, monkeypatch, capsys)
    assert "none of this model's (x, y)" in predicting(
        adapted, tmp_path / "unknown.csv", monkeypatch, capsys, "--evaluate"
    )
    assert "needs labels" in predicting(adapted, "-", monkeypatch, capsys, "--evaluate")
    adapting("--evaluate", tmp_path / "unknown.csv")  # before anything is written, as the last line sees
    assert "does not fit the model" in adapting(start=with_facts(adapter, tmp_path / "fewer", lora_layers="top-1"))
    assert "part of the path is a file" in adapting(to="one.csv/below")
    (tmp_path / "empty.csv").write_text("text\n")
    assert "has no row" in predicting(adapted, tmp_path / "empty.csv", monkeypatch, capsys)
    assert "name a file" in predicting(adapted, support, monkeypatch, capsys, "--out", tmp_path / "used")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n")))
    assert "is not UTF-8" in predicting(adapted, "-", monkeypatch, capsys)
    for content, message in (("{}", "names no config"), ("[1]", "names no config"), ('{"con', "is not whole")):
        (other / "SHA256SUMS").unlink(missing_ok=True)  # the change is ours
        (other / "adaptation.json").write_text(content)
        assert message in adapting(start=other) and "copy it again" in adapting(start=other)
    (adapted / "head.safetensors").write_bytes(b"torn")
    assert "is not whole" in predicting(adapted, support, monkeypatch, capsys)
    assert not (tmp_path / "new").exists()


def test_white_space_around_a_text_changes_nothing(adapter, support_of, tmp_path) -> None:
    labeller, _ = adapt_to_labels(adapter, support_of((0, 2, 3), (2, 2, 2)), tmp_path / "out")
    one, other = labeller.predict(["open the door", "  open  the door \t"])
    np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="text 2 of 2 is empty: fill it in"):
        labeller.predict(["open", " "])


def predicting(adapter: Path, source: object, monkeypatch, capsys, *extra: object) -> str:
    return refused(["predict", "--adapter", adapter, "--input", source, *extra], monkeypatch, capsys)


def test_adaptation_that_diverges_is_refused(adapter, support_of, tmp_path) -> None:
    support = support_of((0, 2, 3), (2, 2, 2))
    with pytest.raises(InputError, match="diverged at --lr 1e"):
        adapt_to_labels(adapter, support, tmp_path / "out", steps=5, learning_rate=1e30)
    assert not (tmp_path / "out").exists()


def test_facts_are_settings_that_load_again(adapter) -> None:
    facts = json.loads((adapter / "adaptation.json").read_text())
    assert facts["labels"] is None
    assert make_config(yaml.safe_load(json.dumps(facts["config"]))).k_inner_test == 3
