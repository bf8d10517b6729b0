"""Everything drawn from a finished run: the fit, the figures, the summary and the page."""

from dataclasses import asdict

from reptile_scaling.laws import Law, verdict_sentence
from reptile_scaling.report.figures import draw_baselines, draw_scaling
from reptile_scaling.report.law_table import law_of_run
from reptile_scaling.report.page import render_page
from reptile_scaling.report.standing import standing_sentence
from reptile_scaling.runs import RunDirectory


def write_report(run: RunDirectory) -> Law:
    """Writes the results table, the law, both figures, the summary and `report.html`; returns the law."""
    run.write_results_table()
    law = law_of_run(run)
    run.write_fit(law.as_json())
    results, baselines = run.results(), list(run.read_baselines().values())
    sentence = verdict_sentence(law)
    draw_scaling(results, law, sentence, run.plot_path)
    draw_baselines(results, baselines, run.baseline_plot_path)
    run.write_summary(
        {
            "verdict_sentence": sentence,
            "standing_sentence": standing_sentence(run),
            "verdict": law.as_json()["verdict"],
            "n_cells": len(run.cells()),
            "n_cells_done": len(results),
            "results": [asdict(result) for result in results],
            "baselines": {
                b.name: {"label": b.label, "accuracy": b.accuracy, "loss": b.loss, "settings": b.settings}
                for b in baselines
            },
            **run.experiment(),
        }
    )
    render_page(run, law, sentence)
    return law
