"""Commands that start an experiment of one's own: the presets, a copy of one, the schema of a configuration."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from reptile_scaling.cli.options import JsonFlag, console
from reptile_scaling.presets import preset_names, preset_to_edit, read_preset

app = typer.Typer()


def complete_preset(incomplete: str) -> list[str]:
    """The presets that a shell offers."""
    return [name for name in preset_names() if name.startswith(incomplete)]


@app.command("presets")
def list_presets(as_json: JsonFlag = False) -> None:
    """The experiments by name that `run` takes, with the time and memory they want."""
    presets = [read_preset(name) for name in preset_names()]
    if as_json:
        print(json.dumps({"presets": [asdict(preset) for preset in presets]}))
        return
    table = Table()
    table.add_column("preset", no_wrap=True)  # to be copied
    for column in ("what it is", "time", "memory"):
        table.add_column(column)
    for preset in presets:
        table.add_row(preset.name, preset.about, preset.time, preset.memory)
    console.print(table)


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="PRESET", autocompletion=complete_preset, help="As in `presets`.")],
) -> None:
    """A preset as a file to edit, on standard output: `reptile-scaling init banking77 > my.yaml`."""
    sys.stdout.write(preset_to_edit(name))


@app.command()
def schema() -> None:
    """The JSON Schema of a configuration, for editors and other programs."""
    from reptile_scaling.config import config_schema

    print(json.dumps(config_schema(), indent=2, ensure_ascii=False))
