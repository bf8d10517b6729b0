"""A label added later: what adapting to all utterances at once gives, from what the adapted folder has kept."""

import shutil

import numpy as np
import pytest
import torch
from staged.processes import call

from reptile_scaling.data.dataset import make_dataset
from reptile_scaling.errors import InputError
from reptile_scaling.use.kept_support import START, SUPPORT, begin_again
from reptile_scaling.use.labeller import adapt_to_labels, open_labeller


def test_adding_labels_twice_is_adapting_to_all_at_once(adapter, support_of, tmp_path) -> None:
    steps = {"steps": 4, "learning_rate": 0.02}
    adapt_to_labels(adapter, support_of((0, 2), (3, 3)), tmp_path / "two", **steps)
    shutil.move(tmp_path / "two", tmp_path / "moved")  # the folder is all that is needed
    adapt_to_labels(tmp_path / "moved", support_of((3,), (2,)), tmp_path / "three", **steps)
    again, done = adapt_to_labels(tmp_path / "three", support_of((5,), (3,)), tmp_path / "four", **steps)
    all_at_once, _ = adapt_to_labels(adapter, support_of((0, 2, 3, 5), (3, 3, 2, 3)), tmp_path / "once", **steps)
    assert done.n_support == 11 and again.labels == all_at_once.labels and len(again.labels) == 4
    torch.testing.assert_close(again.adapters.tensors, all_at_once.adapters.tensors, rtol=1e-5, atol=1e-6)
    texts = list(support_of((0, 2), (6, 6)).texts)
    np.testing.assert_allclose(open_labeller(tmp_path / "four").predict(texts), all_at_once.predict(texts), atol=1e-6)


def test_more_utterances_of_a_known_label_count_too(adapter, support_of, tmp_path) -> None:
    adapt_to_labels(adapter, support_of((0, 2), (2, 2)), tmp_path / "two", steps=1)
    start, both = begin_again(tmp_path / "two", support_of((2, 3), (4, 1)))
    assert start == tmp_path / "two" / START and both.class_names == support_of((0, 2, 3), (1, 1, 1)).class_names
    assert [len(own) for own in both.utterances_by_class] == [2, 4, 1], "the two that came before are not doubled"


def test_a_text_under_another_label_is_left_out_and_named(adapter, support_of, tmp_path) -> None:
    support = support_of((0, 2), (2, 2))
    adapt_to_labels(adapter, support, tmp_path / "two", steps=1)
    _, both = begin_again(tmp_path / "two", make_dataset("more", [(support.texts[0], "new"), ("another text", "new")]))
    assert support.texts[0] not in both.texts and any("two labels" in note or "label" in note for note in both.notes)


def test_an_initialisation_is_left_as_it_is(adapter, support_of) -> None:
    support = support_of((0, 2), (2, 2))
    assert begin_again(adapter, support) == (adapter, support)


@pytest.mark.parametrize("gone", [SUPPORT, START])
def test_without_what_it_kept_it_says_what_to_do(gone: str, adapter, support_of, tmp_path) -> None:
    adapt_to_labels(adapter, support_of((0, 2), (2, 2)), tmp_path / "two", steps=1)
    labeller = open_labeller(tmp_path / "two")
    path = tmp_path / "two" / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(InputError, match="already and keeps no support.csv .* give its initialisation, and"):
        adapt_to_labels(tmp_path / "two", support_of((3,), (2,)), tmp_path / "three")
    texts = list(support_of((0,), (3,)).texts)
    np.testing.assert_array_equal(open_labeller(tmp_path / "two").predict(texts), labeller.predict(texts))


def test_a_flipped_bit_in_what_it_kept_is_named(adapter, support_of, tmp_path) -> None:
    adapt_to_labels(adapter, support_of((0, 2), (2, 2)), tmp_path / "two", steps=1)
    path = tmp_path / "two" / SUPPORT
    path.write_bytes(path.read_bytes().replace(b",", b".", 2))
    with pytest.raises(InputError, match="support.csv"):
        begin_again(tmp_path / "two", support_of((3,), (2,)))


def test_command_line_adds_a_label_and_says_what_stays(adapter, support_of, tmp_path, capsys) -> None:
    def table(name: str, *asked) -> str:
        rows = support_of(*asked)
        lines = [f'"{t}",{rows.class_names[c]}\n' for t, c in zip(rows.texts, rows.labels, strict=True)]
        (tmp_path / name).write_text("".join(["text,label\n", *lines]))
        return str(tmp_path / name)

    adapt_to_labels(adapter, support_of((0, 2), (2, 2)), tmp_path / "two", steps=1)
    more, tested = table("more.csv", (3,), (2,)), table("tested.csv", (0, 2, 3), (3, 3, 3))
    out = tmp_path / "three"
    done = call("adapt", "--adapter", tmp_path / "two", "--support", more, "--out", out, "--evaluate", tested)
    assert done.returncode == 0, done.stderr
    assert "6 utterances of 3 labels" in done.stdout and "9 texts" in done.stdout
    assert "support.csv keeps the utterances" in done.stdout
