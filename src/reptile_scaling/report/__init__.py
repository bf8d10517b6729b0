"""Everything drawn from a finished run: the fit, the figures, the summary and the page."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from reptile_scaling.analysis.difficulty import class_difficulties
from reptile_scaling.analysis.law_of_run import law_of_run
from reptile_scaling.analysis.levels import shown_levels
from reptile_scaling.analysis.standing import standing_sentence, tuned_accuracies
from reptile_scaling.analysis.surfaces_of_run import SurfaceOfRun, surfaces_of_run
from reptile_scaling.laws import Law, verdict_sentence
from reptile_scaling.report.curves import draw_adaptation, draw_difficulty, draw_inner_rates, draw_learning
from reptile_scaling.report.drawing import Chart
from reptile_scaling.report.figures import draw_accuracy, draw_baselines, draw_scaling
from reptile_scaling.report.page import render_page
from reptile_scaling.report.surfaces import surface_charts
from reptile_scaling.runs.directory import RunDirectory


def write_report(run: RunDirectory, *, is_running: bool = False) -> Law:
    """Writes the results table, the law, every figure, the summary and `report.html`; returns the law.

    The page of a run that is going on loads itself again now and then, and is not sealed: another follows.
    """
    run.write_results_table()
    law = law_of_run(run)
    run.write_fit(law.as_json())
    surfaces = surfaces_of_run(run)
    charts = draw_charts(run, law, surfaces)
    charts["scaling"].save(run.plot_path)
    charts["baselines"].save(run.baseline_plot_path)
    for name in charts.keys() - {"scaling", "baselines"}:
        charts[name].save(run.figure_path(name))
    run.write_summary(
        {
            "verdict_sentence": verdict_sentence(law),
            "standing_sentence": standing_sentence(run),
            "verdict": law.as_json()["verdict"],
            "n_cells": len(run.cells()),
            "n_cells_done": len(run.results()),
            "results": [asdict(result) for result in run.results()],
            "surfaces": {name: surface.law.as_json() for name, surface in surfaces.items()},
            "baselines": {
                b.name: {"label": b.label, "accuracy": b.accuracy, "loss": b.loss, "settings": b.settings}
                for b in run.read_baselines().values()
            },
            **asdict(run.experiment()),
        }
    )
    render_page(run, law, surfaces, charts, is_running)
    if not is_running:
        run.seal_report()
    return law


def _tuned_levels(run: RunDirectory) -> dict[float, np.ndarray]:
    """Accuracy on each test task of the shown levels, mean over cells, where each cell has chosen rate and steps."""
    cells = {level: [r.cell for r in run.results() if r.level == level] for level in shown_levels(run)}
    found = {level: tuned_accuracies(run, of_level) for level, of_level in cells.items()}
    return {level: accuracies.mean(0) for level, accuracies in found.items() if accuracies is not None}


def draw_charts(run: RunDirectory, law: Law, surfaces: Mapping[str, SurfaceOfRun]) -> dict[str, Chart]:
    """Every figure of a run by name; what was not measured has none."""
    results, baselines = run.results(), list(run.read_baselines().values())
    drawn = (
        draw_scaling(results, law, verdict_sentence(law)),
        draw_accuracy(results, baselines),
        draw_baselines(results, baselines, shown_levels(run), _tuned_levels(run)),
        draw_adaptation(run),
        draw_learning(run),
        draw_inner_rates(run),
        draw_difficulty(class_difficulties(run)),
        *surface_charts(surfaces),
    )
    return {chart.name: chart for chart in drawn if chart is not None}
