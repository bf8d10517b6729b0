"""What several class splits say together: table, law, figure, summary and page of the folder above them."""

import textwrap
from dataclasses import asdict

import numpy as np
from markupsafe import Markup
from scipy.stats import t as student

from reptile_scaling.analysis.class_splits import (
    SplitAnswer,
    interval_words,
    missing_of_splits,
    pooled_sentence,
    pooled_standings,
    split_answers,
)
from reptile_scaling.analysis.law_of_run import law_of_run
from reptile_scaling.laws import Law, verdict_sentence
from reptile_scaling.report.drawing import (
    BLUE,
    GREY,
    HEADLINE_SIZE,
    Chart,
    drawing_style,
    label_ends,
    level_ticks,
    loss_ticks,
    new_chart,
)
from reptile_scaling.report.figures import draw_law
from reptile_scaling.report.page import filled
from reptile_scaling.report.plain_table import PlainTable
from reptile_scaling.report.tables import form_rows
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.storage import write_bytes

TEMPLATE = "class_splits.html.jinja"
NONE = "–"


def write_pooled_report(run: RunDirectory) -> Law:
    """Writes what the splits' finished cells say together, and seals the folder; returns the law.

    InputError where no split has a finished cell.
    """
    run.write_pooled_table()
    law = law_of_run(run)
    run.write_fit(law.as_json())
    chart = draw_pooled(law, verdict_sentence(law))
    chart.save(run.plot_path)
    answers = split_answers(run)
    _write_summary(run, law, answers)
    page = filled(
        TEMPLATE,
        sentence=verdict_sentence(law),
        missing=missing_of_splits(run),
        standing=pooled_sentence(run),
        chart=Markup(chart.inline()),
        data_link=chart.data_link(),
        law=law,
        forms=form_rows(law),
        tables=[table for table in (standing_table(answers), level_table(law)) if table.rows],
        links={name: own.report_path.relative_to(run.path) for name, own in run.split_runs().items()},
    )
    write_bytes(run.report_path, page.encode())
    run.seal_report()
    return law


def _write_summary(run: RunDirectory, law: Law, answers: list[SplitAnswer]) -> None:
    found = pooled_standings(answers)
    run.write_summary(
        {
            "verdict_sentence": verdict_sentence(law),
            "standing_sentence": pooled_sentence(run),
            "verdict": law.as_json()["verdict"],
            "standing": [{**asdict(standing), "verb": standing.verb} for standing in found],
            "standing_intervals": interval_words(len(answers)),
            "splits": {answer.name: asdict(answer) for answer in answers},
            "results": [asdict(result) for result in run.pooled_results()],
            **asdict(run.experiment()),
        }
    )


def standing_table(answers: list[SplitAnswer]) -> PlainTable:
    """Gains over every rival that all splits have, split by split, then pooled."""
    rows = []
    for pooled in pooled_standings(answers):
        gains = [next(s for s in answer.standings if s.name == pooled.name) for answer in answers]
        rows.append((pooled.label, *(f"{s.gain:+.1f} ± {s.error:.1f}" for s in (*gains, pooled))))
    columns = ("baseline", *(f"{answer.name}, {answer.level_name}" for answer in answers), "all splits")
    caption = (
        "Points of accuracy beyond each baseline, of each split's best level on its validation tasks. A split's 95 % "
        f"intervals are over its test classes, tasks and seeds; those of all splits are {interval_words(len(answers))}."
    )
    return PlainTable("standing", caption, columns, tuple(rows))


def level_table(law: Law) -> PlainTable:
    """Losses of levels, split by split."""
    table = law.table
    groups = table.group or ()
    names = list(dict.fromkeys(groups))
    losses = dict(zip(zip(table.x.tolist(), groups, strict=True), table.loss.tolist(), strict=True))
    rows = [
        (
            f"{table.x_symbol} = {x:g}",
            *(f"{losses[x, name]:.3f}" if (x, name) in losses else NONE for name in names),
            f"{table.loss[table.x == x].mean():.3f}",
        )
        for x in law.levels.x.tolist()
    ]
    caption = "Meta-test loss in nats per query utterance, means over seeds and test tasks; last, the mean over splits."
    return PlainTable("levels", caption, ("level", *names, "all splits"), tuple(rows))


def draw_pooled(law: Law, sentence: str) -> Chart:
    """Meta-test loss over the axis, log-log: a thin line for each split, level means with 95 % intervals, the law."""
    table, levels = law.table, law.levels.x
    chart = new_chart("scaling", f"Meta-test loss over {table.x_name} on several class splits, log-log", 7.2, 4.8)
    with drawing_style():
        axes = chart.axes
        level_ticks(axes, levels)
        loss_ticks(axes, table.loss)
        ends = draw_law(chart, law, levels)
        for name in dict.fromkeys(table.group or ()):
            _draw_split(chart, law, name)
        half_widths = _half_widths(law)
        axes.errorbar(levels, law.levels.mean, yerr=half_widths, fmt="o", ms=7, color=BLUE, capsize=3, lw=1.4, zorder=5)
        axes.set_xlabel(table.x_name)
        axes.set_ylabel("meta-test loss, nats per query utterance")
        axes.set_title("\n".join(textwrap.wrap(sentence, 92)), fontsize=HEADLINE_SIZE)
        legend = "thin lines: class splits, means over seeds · large: mean over splits, 95 % interval"
        chart.figure.supxlabel(legend, fontsize=8.5, color=GREY)
        label_ends(axes, ends)
    return chart


def _draw_split(chart: Chart, law: Law, name: str) -> None:
    table = law.table
    rows = np.array([group == name for group in table.group or ()])
    order = np.argsort(table.x[rows])
    x, loss = table.x[rows][order], table.loss[rows][order]
    (line,) = chart.axes.plot(x, loss, "o-", ms=4, lw=0.8, color=BLUE, alpha=0.45, zorder=3)
    chart.say(line, f"class split {name}")
    chart.rows += [
        {table.x_name: n, "class_split": name, "meta_test_loss": value} for n, value in zip(x, loss, strict=True)
    ]


def _half_widths(law: Law) -> np.ndarray:
    """95 % intervals of level means over splits, with what a split does at every level; 0 where nothing is known."""
    levels = law.levels
    if levels.pooled_df == 0:
        return np.zeros(len(levels.x))
    df = levels.shared_df or levels.pooled_df
    variance = (levels.pooled_variance * levels.spread**2 + levels.shared_variance) / levels.n_seeds
    return np.asarray(student.ppf(0.975, df) * np.sqrt(variance) * levels.unit)
