"""What fuzzing found, and a little more each time; scripts/reliability/fuzz.py does the same for as long as wanted.

Each input is read or refused in one sentence of bounded length, by the reader that a command would use.
"""

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from staged.inputs import Kind, kinds_of

from reptile_scaling.errors import InputError


def header(text: str, data: bytes = b"") -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


def numbers(*of: tuple[int, int]) -> bytes:
    """Bytes of whole numbers, each with its width."""
    return b"".join(value.to_bytes(width, "little") for width, value in of)


def doubling(depth: int) -> bytes:
    """Aliases: a few lines that stand for 9^depth words."""
    lines = ["n0: &a0 [x]", *(f"n{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth))]
    return "\n".join([*lines, f"n_way: *a{depth - 1}"]).encode()


HEAD = '{"head.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},%s}'

CORPUS: dict[str, tuple[str, bytes]] = {
    "value that aliases make endless": ("YAML", doubling(40)),
    "list in itself": ("YAML", b"seeds: &a [*a]"),
    "deep nesting": ("YAML", b"seeds: " + b"[" * 5000),
    "month 13": ("YAML", b"seeds: 2026-13-01"),
    "bool that is none": ("YAML", b"tensorboard: !!bool x"),
    "timestamp that is none": ("YAML", b"dataset: !!timestamp x"),
    "number of 5000 digits": ("YAML", b"n_way: " + b"9" * 5000),
    "key that is no word": ("YAML", b"? [1]\n: 2\n3: 4"),
    "sentence of several lines": ("--set", b"keep_second_moments={a: 1}"),
    "month 13 in --set": ("--set", b"seeds=2026-13-01"),
    "csv of one quote": ("csv", b'"'),
    "csv with NUL": ("csv", b"text,label\na\x00b,c\n"),
    "jsonl of one number": ("jsonl", b"1\n"),
    "jsonl of nulls": ("jsonl", b"null\nnull\n"),
    "jsonl that is deep": ("jsonl", b"[" * 100_000),
    "lone surrogate": ("jsonl", b'{"text": "\\ud800", "label": "a"}\n'),
    "parquet cut to its ends": ("parquet", b"PAR1\x00\x00\x00\xffPAR1"),
    "class that is no word": ("class lists", b'{"train": [[]], "valid": ["b"], "test": ["c"]}'),
    "part that is a word": ("class lists", b'{"train": "ab", "valid": ["b"], "test": ["c"]}'),
    "lists that are a number": ("class lists", b"7"),
    "weight without a dot": (
        "safetensors",
        header(HEAD % '"x":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}', bytes(4)),
    ),
    "moments without steps": ("safetensors", header("{}")),
    "header longer than the file": ("safetensors", (2**63).to_bytes(8, "little")),
    "facts of the wrong types": ("adapter", b'{"config": {}, "labels": 7, "temperature": "x"}'),
    "checkpoint of a huge shape": (
        "checkpoint",
        header(
            '{"__metadata__":{"meta_step":"1","wall_seconds":"1"},'
            '"x":{"dtype":"F32","shape":[4294967296,2],"data_offsets":[0,4]}}',
            bytes(4),
        ),
    ),
    "checkpoint of step x": ("checkpoint", header('{"__metadata__":{"meta_step":"x","wall_seconds":"1"}}')),
    "weights of a model that are none": ("model", b"x" * 20),
    "hidden size that is a word": ("config.json", b'{"model_type": "llama", "hidden_size": "x"}'),
    "a million layers": ("config.json", b'{"model_type": "llama", "num_hidden_layers": 1000000, "vocab_size": 9}'),
    "a vocabulary of terabytes": ("config.json", b'{"model_type": "llama", "vocab_size": 2000000000}'),
    "GGUF of nothing but its name": ("GGUF", b"GGUF" + numbers((4, 3)) + b"\xff" * 16),
    "GGUF of an endless list": (
        "GGUF",
        b"GGUF" + numbers((4, 3), (8, 0), (8, 1), (8, 1)) + b"x" + numbers((4, 9), (4, 4)) + b"\xff" * 8,
    ),
}  # fmt: skip

N_CHANGED = {"model": 5, "config.json": 5, "GGUF": 5}
"""Inputs of the slower kinds; 40 of others."""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Iterator[dict[str, Kind]]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzzed")
        patch.setenv("REPTILE_SCALING_CACHE", str(folder))
        yield kinds_of(folder)


def read(kind: Kind, content: bytes) -> str:
    """The sentence; empty where the input was read."""
    try:
        kind.read(content)
    except InputError as error:
        assert 0 < len(str(error)) < 20_000 and "\n" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("name, content", CORPUS.values(), ids=CORPUS)
def test_what_was_found_is_read_or_refused(name: str, content: bytes, kinds) -> None:
    read(kinds[name], content)


@pytest.mark.parametrize("name", ["YAML", "--set", "csv", "jsonl", "parquet", "class lists", "safetensors", "adapter",
                                  "checkpoint", "model", "config.json", "GGUF"])  # fmt: skip
def test_any_input_is_read_or_refused(name: str, kinds) -> None:
    kind, n, rng = kinds[name], N_CHANGED.get(name, 40), random.Random(name)

    @settings(database=None, deadline=None, max_examples=n, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(kind.strategy)
    def drawn(content: bytes) -> None:
        read(kind, content)

    drawn()
    for good in kind.seeds:
        for _ in range(n):
            place = rng.randrange(len(good))
            read(kind, good[:place] + rng.randbytes(rng.randrange(4)) + good[place + rng.randrange(4) :])


def test_good_inputs_are_read(kinds) -> None:
    """The readers of this test do read."""
    for name in ("csv", "jsonl", "parquet", "class lists", "adapter", "checkpoint", "model", "config.json", "GGUF"):
        assert [read(kinds[name], good) for good in kinds[name].seeds] == [""] * len(kinds[name].seeds), name
