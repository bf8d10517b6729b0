"""One changed byte is noticed wherever it is; what was written before there were seals is read."""

import json
import subprocess

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from reptile_scaling.runs.records import Confusion, PoolTask
from reptile_scaling.seals import (
    BLANK,
    SUMS,
    BrokenSeal,
    check_tensors,
    read_sums,
    sealed_json,
    sealed_tensors,
    sums_text,
    unsealed_json,
)
from reptile_scaling.storage import is_whole, publish, read_rows, seal, unseal, write_bytes, write_rows

OBJECT = '{\n  "task": 3,\n  "classes": [\n    "a"\n  ]\n}\n'
TENSORS = safetensors.numpy.save({"x": np.arange(6, dtype=np.float32)}, metadata={"meta_step": "4", **BLANK})


def check_json(content: bytes) -> None:
    json.loads(unsealed_json(content, {"task", "classes"}))


def check_sums(content: bytes) -> None:
    read_sums(content)


SEALED = {
    "json": (sealed_json(OBJECT), check_json),
    "tensors": (sealed_tensors(TENSORS), check_tensors),
    "sums": (sums_text({"a.csv": 64 * "1", "b.csv": 64 * "2"}).encode(), check_sums),
}


@pytest.mark.parametrize("kind", SEALED)
def test_any_changed_byte_is_noticed(kind: str) -> None:
    """All places, each with one bit flipped, all bits flipped, a blank and a quote in its place."""
    content, check = SEALED[kind]
    check(content)
    for place, byte in enumerate(content):
        for value in {byte ^ 1, byte ^ 0x20, byte ^ 0xFF, 0x20, 0x22} - {byte}:
            with pytest.raises(ValueError):
                check(content[:place] + bytes([value]) + content[place + 1 :])


@given(st.binary(max_size=200))
def test_any_bytes_are_tensors_that_pass_or_a_broken_seal(content: bytes) -> None:
    try:
        check_tensors(content)
    except BrokenSeal as error:
        assert str(error)


def test_what_has_no_seal_yet_is_read() -> None:
    assert unsealed_json(OBJECT.encode(), set(PoolTask.__dataclass_fields__)) == OBJECT.encode()
    check_tensors(safetensors.numpy.save({"x": np.zeros(2)}, metadata={"meta_step": "4", "wall_seconds": "1.0"}))


def test_sealed_tensors_are_read_by_everybody() -> None:
    np.testing.assert_array_equal(safetensors.numpy.load(sealed_tensors(TENSORS))["x"], np.arange(6))


def test_list_of_digests_is_what_sha256sum_checks(tmp_path) -> None:
    write_bytes(tmp_path / "a.csv", b"text\n")
    write_bytes(tmp_path / "status.json", b"{}")
    seal(tmp_path)
    command = ["sha256sum", "--check", "--strict", SUMS]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    write_bytes(tmp_path / "status.json", b'{"state": "done"}')  # a heartbeat is not listed
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    write_bytes(tmp_path / "a.csv", b"next\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


def test_table_that_is_not_as_listed_is_named_until_the_folder_is_unsealed(tmp_path) -> None:
    table = tmp_path / "table.csv"
    write_rows(table, Confusion, [Confusion("a", "b", 7)])
    seal(tmp_path)
    assert read_rows(table, Confusion) == [Confusion("a", "b", 7)]
    table.write_text(table.read_text().replace("7", "1"))
    with pytest.raises(ValueError, match=r"table.csv' is not whole \(its SHA-256 is .*: delete the folder it lies in"):
        read_rows(table, Confusion)
    unseal(tmp_path)
    assert read_rows(table, Confusion) == [Confusion("a", "b", 1)]


def test_published_folder_is_whole_until_a_byte_changes(tmp_path) -> None:
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "weights").write_bytes(b"12345678")
    publish(tmp_path / "aside", tmp_path / "model")
    assert is_whole(tmp_path / "model") and not (tmp_path / "aside").exists()
    (tmp_path / "model" / "weights").write_bytes(b"12345679")
    assert not is_whole(tmp_path / "model")
