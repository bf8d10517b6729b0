"""What several commands share: their consoles and the options they have in common."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)
errors = Console(highlight=False, stderr=True)

RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder of the run; the same command resumes it.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="The base, where its folder has moved.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
