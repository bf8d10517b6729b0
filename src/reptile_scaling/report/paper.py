"""A run for a paper: its tables as Markdown and LaTeX, its figures as PDF, each with what its numbers are of."""

from pathlib import Path

import numpy as np

from reptile_scaling.analysis.law_of_run import law_of_run
from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.analysis.standing import standings
from reptile_scaling.analysis.surfaces_of_run import surfaces_of_run
from reptile_scaling.laws import Law
from reptile_scaling.report import draw_charts
from reptile_scaling.report.figures import half_widths
from reptile_scaling.report.plain_table import PlainTable, for_latex
from reptile_scaling.report.tables import form_rows
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.storage import write_bytes

OVER_TASKS = "intervals: 95 %, of the mean over test tasks"


def write_paper(run: RunDirectory) -> list[Path]:
    """Writes the tables and figures of the finished cells to `paper/`, and says which files."""
    law = law_of_run(run)
    charts = draw_charts(run, law, surfaces_of_run(run))
    files: dict[str, bytes] = {f"{name}.pdf": chart.pdf() for name, chart in charts.items()}
    captions = {name: figure_caption(run, name, chart.title) for name, chart in charts.items()}
    for table in (results_table(run), standing_table(run), laws_table(run, law)):
        files |= {f"{table.name}.md": table.markdown().encode(), f"{table.name}.tex": table.latex().encode()}
    files["figures.md"] = "".join(f"**{name}.pdf**: {text}\n\n" for name, text in captions.items()).encode()
    files["figures.tex"] = "".join(_latex_figure(name, text) for name, text in captions.items()).encode()
    for name, content in files.items():
        write_bytes(run.paper_folder / name, content)
    return [run.paper_folder / name for name in files]


def facts_of_run(run: RunDirectory) -> str:
    """Cells, seeds and test tasks in half a sentence."""
    config, results = run.config(), run.results()
    n_levels, n_seeds = len({r.level for r in results}), len({r.seed for r in results})
    return (
        f"n = {len(results)} cells (levels: {n_levels}, seeds: {n_seeds}), {results[0].num_meta_test_tasks} test tasks "
        f"of unseen classes, {config.task_shape}, {config.k_query} queries per class"
    )


def intervals_over_seeds(run: RunDirectory) -> str:
    """What the intervals of levels are; with one seed a level there is none."""
    results = run.results()
    if len(results) == len({r.level for r in results}):
        return "one seed a level, so no intervals"
    return "intervals: 95 %, t, of a level's mean over seeds, their spread pooled over levels"


def _intervals(run: RunDirectory, name: str) -> str:
    """What the bars of a figure are, and which part of the run it shows."""
    config = run.config()
    match name:
        case "scaling" | "accuracy":
            return intervals_over_seeds(run)
        case "baselines":
            return OVER_TASKS
        case "adaptation":
            n_tasks = min(config.num_validation_tasks, config.num_meta_test_tasks)
            return f"here the first seed on the first {n_tasks} of these tasks; no intervals"
        case "learning":
            return f"here on {config.num_validation_tasks} tasks of the validation classes; no intervals"
        case "surface_meta_steps" | "surface_inner_steps" | "surface_classes":
            return "bands and intervals: 95 %, by a wild bootstrap over cells"
        case _:
            return "no intervals"


def figure_caption(run: RunDirectory, name: str, title: str) -> str:
    """What a figure shows, of how many, and what its intervals are."""
    return f"{title}; {facts_of_run(run)}; {_intervals(run, name)}."


def results_table(run: RunDirectory) -> PlainTable:
    """A row per level: loss and accuracy, means over seeds with intervals, and how much data the level was."""
    results = run.results()
    levels = sorted({r.level for r in results})
    cells = [[r for r in results if r.level == level] for level in levels]
    losses = [np.array([r.meta_test_loss for r in of_level]) for of_level in cells]
    accuracies = [np.array([r.meta_test_accuracy for r in of_level]) for of_level in cells]
    rows = [
        (
            of_level[0].cell.level_name,
            str(len(of_level)),
            f"{loss.mean():.3f}" + (f" ± {of_loss:.3f}" if of_loss else ""),
            f"{100 * accuracy.mean():.1f}" + (f" ± {100 * of_accuracy:.1f}" if of_accuracy else ""),
            f"{100 * float(np.mean([r.zero_step_accuracy for r in of_level])):.1f}",
            f"{float(np.mean([r.distinct_utterances for r in of_level])):.0f}",
        )
        for of_level, loss, of_loss, accuracy, of_accuracy in zip(
            cells, losses, half_widths(losses), accuracies, half_widths(accuracies), strict=True
        )
    ]
    units = "Meta-test loss in nats per query utterance, accuracies in %"
    caption = f"{units}; {facts_of_run(run)}; {intervals_over_seeds(run)}."
    columns = ("level", "seeds", "loss", "accuracy", "zero-step", "utterances")
    return PlainTable("results", caption, columns, tuple(rows))


def standing_table(run: RunDirectory) -> PlainTable:
    """A row per rival of the best level on validation tasks."""
    name = best_cells(run)[0].level_name
    rows = [
        (s.label, f"{100 * s.accuracy:.1f}", f"{s.gain:+.1f} ± {s.error:.1f}", f"{name} {s.verb} it")
        for s in standings(run)
    ]
    caption = (
        f"Accuracies in %, and how many points {name}, the best level on validation tasks, has beyond each; "
        f"{facts_of_run(run)}; intervals: 95 %, of paired differences over test classes, tasks and seeds."
    )
    return PlainTable("standing", caption, ("baseline", "accuracy", "difference", "standing"), tuple(rows))


def laws_table(run: RunDirectory, law: Law) -> PlainTable:
    """A row per form of the law."""
    caption = (
        f"Forms fitted to meta-test loss; {facts_of_run(run)}; brackets: 95 % intervals by bootstrap over levels, "
        f"seeds and test tasks; verdict: {law.verdict.form}."
    )
    columns = ("form", "parameters [95 % interval]", "hold-out error", "weight", "R²")
    return PlainTable("laws", caption, columns, tuple(row.as_texts() for row in form_rows(law)))


def _latex_figure(name: str, caption: str) -> str:
    lines = [rf"\includegraphics[width=\linewidth]{{{name}.pdf}}", rf"\caption{{{for_latex(caption)}}}"]
    return "\n".join([r"\begin{figure}", *(f"  {line}" for line in lines), r"\end{figure}", "", ""])
