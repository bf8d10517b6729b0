"""`report.html`: one file that opens from disk, with the figures inside it."""

import base64
from importlib.resources import files
from pathlib import Path

import jinja2

from reptile_scaling.laws import Law
from reptile_scaling.report.standing import standing_sentence
from reptile_scaling.runs import RunDirectory
from reptile_scaling.storage import write_bytes

TEMPLATE = "page.html.jinja"


def render_page(run: RunDirectory, law: Law, sentence: str) -> None:
    """Fills the template; every text from data or configuration is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("reptile_scaling.report") / TEMPLATE).read_text(encoding="utf-8"))
    page = template.render(
        sentence=sentence,
        standing=standing_sentence(run),
        law=law.as_json(),
        experiment=run.experiment(),
        results=run.results(),
        statuses=[(cell, run.cell(cell).read_status()) for cell in run.cells()],
        baselines=sorted(run.read_baselines().values(), key=lambda b: -b.accuracy),
        scaling_figure=_inlined(run.plot_path),
        baseline_figure=_inlined(run.baseline_plot_path),
    )
    write_bytes(run.report_path, page.encode())


def _inlined(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
