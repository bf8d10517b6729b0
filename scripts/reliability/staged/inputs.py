"""Every kind of file or word that comes from outside: how a bad one is made, good ones to begin from, and its reader.

A reader takes bytes and either reads them or raises InputError; anything else it raises is a fault.
"""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import safetensors.numpy
import torch
import yaml
from hypothesis import strategies as st

from reptile_scaling.config import Config, load_config, make_config, parse_override
from reptile_scaling.data.class_lists import read_class_lists
from reptile_scaling.data.readers import load_dataset
from reptile_scaling.model.loading import converted, load_language_model
from reptile_scaling.model.peft_io import load_adapter, load_moments, read_facts
from reptile_scaling.runs.cell_directory import CellDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.seals import BLANK, sealed_tensors
from staged.tiny_sweep import tiny_config

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Kind:
    """A kind of input."""

    strategy: st.SearchStrategy[bytes]
    """Inputs with the form of a good one."""
    seeds: Sequence[bytes]
    """Good ones, whose bytes are changed."""
    read: Read


NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, 1e308, float("nan"), float("inf")]),
)
WORDS = st.one_of(
    st.text(max_size=6), st.sampled_from(["", "top-1", "{text}", "cpu", "auto", "n_tasks", "\x00", "\ud800"])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(sorted(Config.model_fields))
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 2**32, 2**63]), max_size=3)


def kinds_of(folder: Path) -> dict[str, Kind]:
    """Every kind by its name; readers write what they read below the folder, models into `$REPTILE_SCALING_CACHE`."""
    config = tiny_config(folder)
    lists = {"train": ["a"], "valid": ["b"], "test": ["c"]}
    facts = {"config": config.model_dump(mode="json"), "labels": ["a", "b"], "temperature": 1.0}
    steps = {"meta_step": "2", "wall_seconds": "1.0"}
    yaml_seeds = [yaml.safe_dump(config.model_dump(mode="json")).encode(), b"a: &a [1]\nb: [*a, *a]\n"]
    set_seeds = [b"k_inner=5", b"class_split={train: 0.5, seed: 1}", b"a=2001-01-01"]
    csv_seeds = [b"text,label\nopen it,open\n", b'text,label\n"a ""b""\n",c\n']
    jsonl_seeds = [b'{"text": "open it", "label": "open"}\n']
    parquet_seeds = [_as_parquet({"text": ["a", "b"], "label": ["x", "y"]})]
    model = folder / "model"
    return {
        "YAML": Kind(_yaml(), yaml_seeds, lambda content: read_yaml(folder / "config.yaml", content)),
        "--set": Kind(_overrides(), set_seeds, read_override),
        "csv": Kind(_csv(), csv_seeds, _table(folder / "t.csv")),
        "jsonl": Kind(_jsonl(), jsonl_seeds, _table(folder / "t.jsonl")),
        "parquet": Kind(_parquet(), parquet_seeds, _table(folder / "t.parquet")),
        "class lists": Kind(_json(lists), [json.dumps(lists).encode()], _class_lists(folder / "data")),
        "safetensors": Kind(_tensors({}), [_tiny_weights()], _adapter_weights(folder / "weights")),
        "adapter": Kind(_json(facts), [json.dumps(facts).encode()], _facts(folder / "adapter")),
        "checkpoint": Kind(_tensors(steps), [_checkpoint()], _checkpoint_of(folder / "cell")),
        "model": Kind(
            _tensors({"format": "pt"}),
            [(model / "model.safetensors").read_bytes()],
            _model(folder, config, "model.safetensors"),
        ),
        "config.json": Kind(
            _model_config(folder), [(model / "config.json").read_bytes()], _model(folder, config, "config.json")
        ),
        "GGUF": Kind(_gguf(folder), [_tiny_gguf(folder)], _gguf_file(folder / "one.gguf")),
    }


def read_yaml(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    config = load_config(path)
    assert config.level_configs and config.split_configs is not None


def read_override(content: bytes) -> None:
    key, value = parse_override(content.decode(errors="surrogateescape"))
    make_config({"n_way": 3, key: value})


def _table(path: Path) -> Read:
    def read(content: bytes) -> None:
        path.write_bytes(content)
        assert load_dataset(str(path)).texts

    return read


def _class_lists(folder: Path) -> Read:
    (folder / "splits").mkdir(parents=True)

    def read(content: bytes) -> None:
        (folder / "splits" / "one.json").write_bytes(content)
        parts = read_class_lists("one", folder)
        assert all(isinstance(name, str) for names in parts.values() for name in names)

    return read


def _adapter_weights(folder: Path) -> Read:
    """The same bytes as LoRA factors, head and second moments."""
    folder.mkdir()

    def read(content: bytes) -> None:
        for name in ("adapter_model.safetensors", "head.safetensors", "second_moments.safetensors"):
            (folder / name).write_bytes(content)
        for load in (load_moments, load_adapter):
            load(folder, torch.device("cpu"))

    return read


def _facts(folder: Path) -> Read:
    from reptile_scaling.use.labeller import read_adapter_config

    folder.mkdir()

    def read(content: bytes) -> None:
        (folder / "adaptation.json").write_bytes(content)
        assert read_facts(folder)
        read_adapter_config(folder, None)

    return read


def _checkpoint_of(folder: Path) -> Read:
    folder.mkdir()

    def read(content: bytes) -> None:
        with suppress(AssertionError, ValueError):  # where there is a blank seal it is filled in: a whole file
            content = sealed_tensors(content)
        (folder / "checkpoint.safetensors").write_bytes(content)
        CellDirectory(folder, Cell(2, 0)).read_checkpoints()

    return read


def _model(folder: Path, config: Config, name: str) -> Read:
    """One file of a model's folder in Hub layout in place of the good one."""
    place = folder / f"model with {name}"
    place.mkdir()
    for file in (folder / "model").iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    chosen = make_config({**config.model_dump(), "model_name": str(place)})

    def read(content: bytes) -> None:
        (place / name).write_bytes(content)
        load_language_model(chosen, "cpu")

    return read


def _gguf_file(path: Path) -> Read:
    def read(content: bytes) -> None:
        path.write_bytes(content)
        converted(path)

    return read


def _yaml() -> st.SearchStrategy[bytes]:
    settings = st.dictionaries(st.one_of(KEYS, KEYS, KEYS, WORDS), VALUES, max_size=4)
    return settings.map(lambda found: yaml.safe_dump(found, allow_unicode=True).encode(errors="surrogatepass"))


def _overrides() -> st.SearchStrategy[bytes]:
    shown = st.one_of(VALUES.map(lambda value: json.dumps(value)), WORDS)
    return st.builds(lambda key, value: f"{key}={value}".encode(errors="surrogatepass"), KEYS | WORDS, shown)


def _columns() -> st.SearchStrategy[dict[str, list[Any]]]:
    names = st.one_of(st.sampled_from(["text", "label", "utterance", "intent"]), WORDS)
    return st.dictionaries(names, st.lists(VALUES, min_size=2, max_size=2), max_size=3)


def _csv() -> st.SearchStrategy[bytes]:
    cells = st.lists(st.lists(st.one_of(WORDS, st.sampled_from(["text", "label", '"', "\r"])), max_size=3), max_size=4)
    return cells.map(lambda rows: "\n".join(",".join(row) for row in rows).encode(errors="surrogatepass"))


def _jsonl() -> st.SearchStrategy[bytes]:
    rows = st.lists(st.one_of(VALUES, st.dictionaries(st.sampled_from(["text", "label"]), VALUES)), max_size=3)
    return rows.map(lambda found: "\n".join(json.dumps(row) for row in found).encode())


def _as_parquet(columns: dict[str, list[Any]]) -> bytes:
    content = io.BytesIO()
    try:
        pa.parquet.write_table(pa.Table.from_pydict(columns), content)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):  # one type a column
        words = {k: [str(one).encode(errors="replace").decode() for one in v] for k, v in columns.items()}
        pd.DataFrame(words).to_csv(content)
    return content.getvalue()


def _parquet() -> st.SearchStrategy[bytes]:
    def written(columns: dict[str, list[Any]]) -> bytes:
        return _as_parquet({key.encode(errors="replace").decode(): values for key, values in columns.items()})

    return _columns().map(written)


def _json(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """An object of which each key is as it should be, anything else, or not there."""
    fields = {key: st.one_of(st.just(value), VALUES) for key, value in good.items()}
    whole = st.one_of(st.fixed_dictionaries({}, optional=fields), VALUES)
    return whole.map(lambda value: json.dumps(value).encode())


def _tensors(metadata: dict[str, str]) -> st.SearchStrategy[bytes]:
    """A header that says anything of its tensors, and some bytes."""
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.one_of(st.sampled_from(["F32", "I64", "BF16", "BOOL", "F8_E4M3"]), VALUES),
            "shape": SHAPES,
            "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, 2**63]), min_size=1, max_size=3),
        },
    )
    names = st.sampled_from(["head.weight", "head.bias", "base_model.model.x.lora_A.weight", "steps", "x", ""])
    facts = st.fixed_dictionaries(
        {}, optional={key: st.one_of(st.just(value), WORDS) for key, value in metadata.items()}
    )
    said = st.one_of(facts.map(lambda found: found | BLANK), facts, VALUES)
    tensors = st.dictionaries(names, entry, max_size=3)
    whole = st.builds(lambda meta, named: {"__metadata__": meta, **named}, said, tensors)
    return st.builds(_with_header, st.one_of(whole, VALUES), st.binary(max_size=16))


def _with_header(header: Any, data: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def _tiny_weights() -> bytes:
    head = {"head.weight": np.zeros((2, 2), np.float32), "head.bias": np.zeros(2, np.float32)}
    saved: bytes = safetensors.numpy.save(head | {"steps": np.zeros(1, np.int64)})
    return saved


def _checkpoint() -> bytes:
    facts = {"meta_step": "2", "wall_seconds": "1.0", **BLANK}
    saved: bytes = safetensors.numpy.save({"x": np.zeros(2, np.float32)}, metadata=facts)
    return saved


def _model_config(folder: Path) -> st.SearchStrategy[bytes]:
    good = json.loads((folder / "model" / "config.json").read_text())
    changed = st.dictionaries(st.sampled_from(sorted(good)), VALUES, min_size=1, max_size=2)
    return changed.map(lambda found: json.dumps(good | found).encode())


LLAMA = {"block_count": 1, "context_length": 32, "embedding_length": 16, "feed_forward_length": 32,
         "attention.head_count": 2, "attention.head_count_kv": 2, "rope.dimension_count": 8}  # fmt: skip
VOCABULARY = ["<unk>", "<s>", "</s>", "▁open", "▁it", "▁", "o", "p"]


def _tiny_gguf(folder: Path, facts: dict[str, int] = LLAMA, tokens: Sequence[str] = VOCABULARY) -> bytes:
    """A LLaMA of one layer with its tokenizer."""
    path = folder / "written.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in facts.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(tokens))
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([1] * len(tokens))
    for name in ("bos", "eos", "unknown"):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", 0)
    rng = np.random.default_rng(0)
    width, inner = 16, 32
    of_block = {
        "attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width), "attn_output": (width, width),
        "ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner),
        "attn_norm": (width,), "ffn_norm": (width,),
    }  # fmt: skip
    ends = {"token_embd": (len(VOCABULARY), width), "output_norm": (width,), "output": (len(VOCABULARY), width)}
    shapes: dict[str, tuple[int, ...]] = {**ends, **{f"blk.0.{name}": shape for name, shape in of_block.items()}}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _gguf(folder: Path) -> st.SearchStrategy[bytes]:
    numbers = st.sampled_from([0, 1, 3, 2**16, 2**31 - 1, 2**32 - 1])
    facts = st.dictionaries(st.sampled_from(sorted(LLAMA)), numbers, max_size=2).map(lambda found: LLAMA | found)
    tokens = st.one_of(st.just(VOCABULARY), st.lists(st.text(max_size=3), max_size=4))
    return st.builds(lambda facts, tokens: _tiny_gguf(folder, facts, tokens), facts, tokens)
