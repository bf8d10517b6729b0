"""A labeller that needs this package no more: the adapter, its head and a script on transformers and PEFT alone."""

import shutil
from importlib.resources import files
from pathlib import Path

from reptile_scaling.config import make_config
from reptile_scaling.disk import named_refusals
from reptile_scaling.errors import InputError
from reptile_scaling.model.loading import is_encoder, source_of
from reptile_scaling.model.peft_io import HEAD, WEIGHTS, read_facts
from reptile_scaling.storage import write_bytes, write_json

SCRIPT, BASE, LABELS = "predict.py", "base", "labels.json"
ADAPTER_CONFIG = "adapter_config.json"


def export_labeller(adapter: Path, out: Path, *, model: str | None = None) -> list[Path]:
    """Writes what `adapt` left as a folder for other machines, and says which files.

    A base that transformers loads by its name is named, at the revision it was adapted at; one of a `.gguf` file is
    converted and goes along in `base/`. Raises InputError for an initialisation that no labels belong to yet, a
    quantised base, whose numbers a plain one does not give, or an `out` that is in use.
    """
    facts = read_facts(adapter)
    if facts["labels"] is None:
        raise InputError(f"adapter {str(adapter)!r} has no labels yet: run `adapt` first and give its --out folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {str(out)!r} is not empty: choose another folder")
    config = make_config(dict(facts["config"]) | ({"model_name": model, "model_revision": None} if model else {}))
    if config.quantization:
        raise InputError(f"the base of {str(adapter)!r} is quantised ({config.quantization}): adapt over a plain one")
    source, options = source_of(config)
    goes_along = source != str(Path(config.model_name).expanduser())
    with named_refusals(out):
        if goes_along:
            shutil.copytree(source, out / BASE)
        for name in (WEIGHTS, HEAD, ADAPTER_CONFIG):
            write_bytes(out / name, (adapter / name).read_bytes())
        write_bytes(out / SCRIPT, (files("reptile_scaling.use") / "predict.py.txt").read_bytes())
        write_json(
            out / LABELS,
            {
                "labels": facts["labels"],
                "temperature": facts.get("temperature", 1.0),
                "template": config.template,
                "max_length": config.max_length,
                "base": BASE if goes_along else source,
                "base_goes_along": goes_along,
                "revision": options.get("revision"),
                "dtype": "float32" if config.dtype == "auto" else config.dtype,
                "is_encoder": is_encoder(config.model_name, config.model_revision),
            },
        )
    return sorted(out.iterdir())
