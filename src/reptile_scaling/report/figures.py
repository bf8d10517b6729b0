"""The figures people paste into slides: the law, accuracy over N, and what it is compared with."""

import textwrap
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import PercentFormatter
from scipy.stats import t

from reptile_scaling.axes import AXES
from reptile_scaling.laws import Law
from reptile_scaling.laws.verdict import curve
from reptile_scaling.report.drawing import (
    BLUE,
    GREY,
    HEADLINE_SIZE,
    INK,
    ORANGE,
    Chart,
    drawing_style,
    label_ends,
    level_ticks,
    loss_ticks,
    new_chart,
)
from reptile_scaling.runs.records import BaselineResult, CellResult

# Verdicts that name a form whose curve is the law; the others are drawn thin.
CURVE_LABELS = {
    "power": "power law",
    "power_floor": "power law with floor",
    "log_linear": "log-linear",
    "constant": "constant",
    "broken": "broken power law",
    "smooth_break": "smooth break",
    "two_plateaus": "two plateaus",
}


def draw_scaling(results: list[CellResult], law: Law | None, sentence: str) -> Chart:
    """Meta-test loss over N, log-log: cells, level means with 95 % intervals, the law with its band, and its rivals."""
    chart = new_chart("scaling", "Meta-test loss over the number of meta-training tasks, log-log", 7.2, 4.8)
    with drawing_style():
        axes = chart.axes
        levels = np.array(sorted({r.level for r in results}), dtype=float)
        of_level = [np.array([r.meta_test_loss for r in results if r.level == n]) for n in levels]
        level_ticks(axes, levels)
        loss_ticks(axes, np.concatenate(of_level))
        ends = [] if law is None else draw_law(chart, law, levels)
        _draw_cells(chart, results, "meta_test_loss", half_widths(of_level), "{:.3f} nats")
        axes.set_xlabel(AXES[results[0].axis].label)
        axes.set_ylabel("meta-test loss, nats per query utterance")
        axes.set_title("\n".join(textwrap.wrap(sentence, 92)), fontsize=HEADLINE_SIZE)
        chart.figure.supxlabel(_legend(results), fontsize=8.5, color=GREY)
        label_ends(axes, ends)
    return chart


def draw_accuracy(results: list[CellResult], baselines: list[BaselineResult]) -> Chart:
    """Query accuracy over N with the baselines as lines across."""
    chart = new_chart("accuracy", "Query accuracy on the test tasks over the number of meta-training tasks")
    with drawing_style():
        axes = chart.axes
        levels = np.array(sorted({r.level for r in results}), dtype=float)
        of_level = [np.array([r.meta_test_accuracy for r in results if r.level == n]) for n in levels]
        level_ticks(axes, levels)
        ends = []
        axes.set_xlim(levels[0] / 1.2, levels[-1] * 1.2)
        for b in baselines:
            line = axes.axhline(b.accuracy, color=GREY, lw=1, ls=(0, (4, 3)))
            chart.say(line, f"{b.label}: {b.accuracy:.1%}")
            ends.append((axes.get_xlim()[1], b.accuracy, f"{b.label}, {b.accuracy:.0%}", GREY))
        _draw_cells(chart, results, "meta_test_accuracy", half_widths(of_level), "{:.1%}")
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(AXES[results[0].axis].label)
        axes.set_ylabel("query accuracy")
        chart.figure.supxlabel(_legend(results) + " · dashed: baselines", fontsize=8.5, color=GREY)
        label_ends(axes, ends)
    return chart


def _draw_cells(chart: Chart, results: list[CellResult], field: str, half_widths: np.ndarray, unit: str) -> None:
    """A small dot for every cell, a large one with its interval for every level."""
    axes = chart.axes
    levels = sorted({r.level for r in results})
    for r in results:
        value = getattr(r, field)
        (dot,) = axes.plot([r.level], [value], "o", ms=5, color=BLUE, alpha=0.45, mew=0, zorder=3)
        chart.say(dot, f"{level_name(r)}, seed {r.seed}: {unit.format(value)}")
        chart.rows.append({r.axis: r.axis_value or r.n_tasks, "seed": r.seed, field: value})
    for n, half_width in zip(levels, half_widths, strict=True):
        mean = float(np.mean([getattr(r, field) for r in results if r.level == n]))
        axes.errorbar([n], [mean], yerr=[half_width], color=BLUE, capsize=3, lw=1.4, zorder=4)
        (dot,) = axes.plot([n], [mean], "o", ms=7, color=BLUE, zorder=5)
        name = level_name(next(r for r in results if r.level == n))
        chart.say(dot, f"{name}, mean: {unit.format(mean)} ± {unit.format(half_width)}")


def _legend(results: list[CellResult]) -> str:
    n_seeds, n_test = len({r.seed for r in results}), results[0].num_meta_test_tasks
    return f"small dots: cells · large: mean of {n_seeds} seeds, 95 % interval · {n_test} shared test tasks"


def half_widths(of_level: list[np.ndarray]) -> np.ndarray:
    """95 % interval of a level's mean, from the standard deviation pooled over levels; 0 with one seed a level."""
    degrees = sum(len(losses) - 1 for losses in of_level)
    if degrees == 0:
        return np.zeros(len(of_level))
    # Relative spread, since losses at small N are several times those at large N.
    squares = sum(float(np.square(losses / losses.mean() - 1).sum()) for losses in of_level)
    relative = np.sqrt(squares / degrees)
    return np.array([t.ppf(0.975, degrees) * relative * x.mean() / np.sqrt(len(x)) for x in of_level])


def draw_law(chart: Chart, law: Law, levels: np.ndarray) -> list[tuple[float, float, str, str]]:
    """The verdict's curve with its band, and the other forms thin; their ends and names are left to `label_ends`."""
    axes, grid = chart.axes, np.geomspace(levels.min(), levels.max(), 120)
    ends: list[tuple[float, float, str, str]] = []
    for name, label in CURVE_LABELS.items():
        candidate = law.candidates.get(name)
        if candidate is None or not candidate.identified:
            continue
        values = curve(candidate, grid)
        is_law = name == law.verdict.form
        if np.any(values <= 0):
            continue
        (line,) = axes.plot(grid, values, color=ORANGE if is_law else GREY, lw=1.8 if is_law else 0.9, zorder=2)
        missed = (
            ""
            if candidate.holdout_error is None
            else f"; misses the largest N, left out, by {candidate.holdout_error:.1%}"
        )
        chart.say(line, f"{label}: weight {candidate.weight:.2f}{missed}")
        ends.append((float(grid[-1]), float(values[-1]), f" {label}", ORANGE if is_law else GREY))
        if is_law:
            line.set_zorder(2.5)
            predicted = law.predict(grid)
            axes.fill_between(grid, predicted.low, predicted.high, color=ORANGE, alpha=0.15, linewidth=0)
    return ends


def draw_baselines(
    results: list[CellResult],
    baselines: list[BaselineResult],
    levels: list[float],
    tuned: Mapping[float, Float[np.ndarray, "T"]],
) -> Chart:
    """Accuracy on the shared test tasks: meta-trained levels beside every baseline, 95 % intervals; `tuned` has a
    level's accuracies where rate and steps are chosen as tuned fine-tuning chooses them."""
    rows: list[tuple[str, float, float, str]] = [
        (b.label, b.accuracy, _interval(b.accuracy_std, len(b.task_accuracies)), GREY) for b in baselines
    ]
    for n in levels:
        cells = [r for r in results if r.level == n]
        accuracy = float(np.mean([r.meta_test_accuracy for r in cells]))
        spread = float(np.mean([r.meta_test_accuracy_std for r in cells]))
        rows.append(
            (f"meta-trained, {level_name(cells[0])}", accuracy, _interval(spread, cells[0].num_meta_test_tasks), BLUE)
        )
        if n in tuned:
            label = f"meta-trained, {level_name(cells[0])}, tuned"
            half_width = _interval(float(tuned[n].std(ddof=1)), len(tuned[n]))
            rows.append((label, float(tuned[n].mean()), half_width, BLUE))
    rows.sort(key=lambda row: row[1])
    title = "Query accuracy of meta-trained initialisations and baselines on the same test tasks"
    chart = new_chart("baselines", title, 7.8, 0.48 * len(rows) + 1.4)
    with drawing_style():
        axes = chart.axes
        for place, (label, accuracy, half_width, colour) in enumerate(rows):
            (bar,) = axes.barh([place], [accuracy], color=colour, height=0.62)
            axes.errorbar([accuracy], [place], xerr=[half_width], color=INK, lw=1.2, capsize=2.5)
            chart.say(bar, f"{label}: {accuracy:.1%} ± {half_width:.1%}")
            chart.rows.append({"what": label, "accuracy": accuracy, "ci95_half_width": half_width})
            axes.text(accuracy + half_width + 0.01, place, f"{accuracy:.1%}", va="center", fontsize=10)
        chance = results[0].chance_accuracy
        axes.axvline(chance, color=INK, lw=1, ls=":")
        axes.text(chance, len(rows) - 0.4, "chance", ha="center", va="bottom", fontsize=9)
        axes.set_yticks(range(len(rows)), [r[0] for r in rows])
        axes.set_xlim(0, 1.08)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(f"query accuracy on the same {results[0].num_meta_test_tasks} test tasks of unseen classes")
    return chart


def level_name(result: CellResult) -> str:
    """`N = 50`, or the level of another axis."""
    return result.cell.level_name


def _interval(standard_deviation: float, n_tasks: int) -> float:
    """Half-width of the 95 % interval of a mean over test tasks."""
    return 1.96 * standard_deviation / float(np.sqrt(n_tasks))
