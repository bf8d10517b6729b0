"""`report.html`: one file that opens from disk, with its figures and their data inside it."""

import base64
from importlib.resources import files
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from reptile_scaling.analysis.difficulty import class_difficulties, task_difficulties
from reptile_scaling.analysis.law_of_run import law_of_last_points
from reptile_scaling.analysis.missing import missing_sentence
from reptile_scaling.analysis.standing import standing_sentence
from reptile_scaling.analysis.steps_worth import at_steps, laws_at_steps, worth_sentence
from reptile_scaling.analysis.training_facts import (
    best_name,
    convergence_sentence,
    cost_of_run,
    gain_sentence,
    level_coverage,
    meaning_sentence,
    overtraining_sentence,
    slots_sentence,
)
from reptile_scaling.config import Config
from reptile_scaling.laws import Law, verdict_sentence
from reptile_scaling.report.drawing import Chart
from reptile_scaling.report.tables import form_rows
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.storage import write_bytes

TEMPLATE, STYLE, TIPS = "page.html.jinja", "page.css", "tips.js"
HARDEST_TASKS = 8
SECONDS_BETWEEN_LOADS = 20


def render_page(run: RunDirectory, law: Law, charts: dict[str, Chart], is_running: bool) -> None:
    """Fills the template; every text from data or configuration is escaped."""
    page = filled(
        TEMPLATE,
        charts={name: Markup(chart.inline()) for name, chart in charts.items()},
        data_links={name: chart.data_link() for name, chart in charts.items()},
        law=law,
        forms=form_rows(law),
        seconds_between_loads=SECONDS_BETWEEN_LOADS if is_running else None,
        **_words(run, law),
        **_tables(run),
    )
    write_bytes(run.report_path, page.encode())


def filled(template: str, **values: Any) -> str:
    """A template of this folder with the style of its pages, and the script by which marks of charts speak."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": lambda share: f"{share:.1%}", "duration": _duration}
    folder = files("reptile_scaling.report")
    style, tips = (Markup((folder / name).read_text(encoding="utf-8")) for name in (STYLE, TIPS))
    page = environment.from_string((folder / template).read_text(encoding="utf-8"))
    return page.render(style=style, tips=tips, **values)


def _words(run: RunDirectory, law: Law) -> dict[str, str]:
    """The sentences."""
    return {
        "sentence": verdict_sentence(law),
        "missing": missing_sentence(run),
        "meaning": meaning_sentence(law),
        "gain": gain_sentence(run),
        "standing": standing_sentence(run),
        "convergence": convergence_sentence(run),
        "overtraining": overtraining_sentence(run, law),
        "slots": slots_sentence(run),
        "worth": worth_sentence(run),
        "last_law": _last_law(run),
    }


def _last_law(run: RunDirectory) -> str:
    """The verdict that the last meta-steps' initialisations would give, where others are tested."""
    law = law_of_last_points(run)
    return f"At the last meta-step instead: {verdict_sentence(law)}" if law is not None else ""


def _tables(run: RunDirectory) -> dict[str, Any]:
    """What the tables show."""
    experiment = run.experiment()
    values = experiment.config.model_dump(mode="json")
    config_yaml = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    fields = Config.model_fields
    return {
        "experiment": experiment,
        "settings": [(key, value, fields[key].description or "") for key, value in values.items()],
        "config_yaml": config_yaml,
        "config_link": "data:text/yaml;charset=utf-8;base64," + base64.b64encode(config_yaml.encode()).decode(),
        "results": run.results(),
        "statuses": [(cell, run.cell(cell).read_status()) for cell in run.cells()],
        "baselines": sorted(run.read_baselines().values(), key=lambda b: -b.accuracy),
        "baseline_failures": run.read_baseline_failures(),
        "coverage": level_coverage(run),
        "best_name": best_name(run),
        "classes": class_difficulties(run),
        "hardest_tasks": task_difficulties(run)[:HARDEST_TASKS],
        "cost": cost_of_run(run),
        "at_steps": at_steps(run),
        "laws_at_steps": {n: verdict_sentence(law) for n, law in laws_at_steps(run).items()},
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _duration(hours: float) -> str:
    """Seconds below two minutes, minutes below two hours."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{hours:.1f} h"
