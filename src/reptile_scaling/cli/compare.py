"""The command that puts runs beside each other."""

import json
from pathlib import Path
from typing import Annotated

import typer

from reptile_scaling.cli.options import JsonFlag, console
from reptile_scaling.errors import InputError

app = typer.Typer()


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR DIR …", help="Folders of runs; the first is the base.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX (booktabs).")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Runs beside each other: settings that differ, levels, laws, standing, paired differences with intervals."""
    from reptile_scaling.analysis.beside import put_beside
    from reptile_scaling.report.beside import beside_tables

    if markdown + latex + as_json > 1:
        raise InputError("--markdown, --latex and --json were asked for together: choose one")
    found = put_beside(folders)
    if as_json:
        print(json.dumps(found.as_json(), allow_nan=False))
        return
    for table in beside_tables(found):
        if markdown or latex:
            print(table.markdown() if markdown else table.latex())
        else:
            console.print(table.on_screen())
