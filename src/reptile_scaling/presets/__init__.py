"""Experiments by name, a YAML file each, whose comments say what it is, how long it takes and how much memory."""

import re
from dataclasses import dataclass
from pathlib import Path

from reptile_scaling.errors import InputError

FOLDER = Path(__file__).parent
SCHEMA = "config.schema.json"
"""The JSON Schema of a configuration, beside the presets that name it for editors."""


@dataclass(frozen=True)
class Preset:
    """A preset as `reptile-scaling presets` shows it; time and memory as measured, or that they were not."""

    name: str
    about: str
    time: str
    memory: str


def preset_names() -> list[str]:
    """The presets there are, by name."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset. InputError where none has that name."""
    if name not in preset_names():
        raise InputError(
            f"config file {name!r} does not exist, nor is it a preset ({', '.join(preset_names())}): check the path, "
            "or start with reptile-scaling init demo"
        )
    return FOLDER / f"{name}.yaml"


def read_preset(name: str) -> Preset:
    """What a preset's comments say of it: the line after the editor's, `# time: …` and `# memory: …`."""
    text = preset_path(name).read_text(encoding="utf-8")
    time, memory = (re.findall(rf"^# {fact}: (.+)$", text, flags=re.MULTILINE)[0] for fact in ("time", "memory"))
    return Preset(name, text.splitlines()[1].removeprefix("# "), time, memory)


def preset_to_edit(name: str) -> str:
    """A preset's text for a file of one's own, its editor's line leading to the installed schema."""
    text = preset_path(name).read_text(encoding="utf-8")
    return text.replace(f"$schema={SCHEMA}", f"$schema={(FOLDER / SCHEMA).as_uri()}")
