"""Figures of what happens inside a cell: how it learns, how its initialisation adapts, what it confuses."""

from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm, to_hex
from matplotlib.ticker import PercentFormatter

from reptile_scaling.analysis.difficulty import ClassDifficulty
from reptile_scaling.analysis.levels import shown_levels
from reptile_scaling.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    Chart,
    drawing_style,
    label_ends,
    loss_ticks,
    new_chart,
)
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.records import CurvePoint

SHOWN_CLASSES = 15


def draw_learning(run: RunDirectory) -> Chart:
    """Validation loss of every cell over meta-steps; light to dark is small to large levels."""
    chart = new_chart("learning", "Validation loss of every cell over meta-steps")
    cells = [cell for cell in run.cells() if run.cell(cell).read_eval_stats()]
    levels = list(dict.fromkeys(cell.level_name for cell in cells))
    shades = dict(zip(levels, plt.get_cmap("viridis")(np.linspace(0.3, 0.8, len(levels)))[::-1], strict=True))
    with drawing_style():
        axes, ends, losses = chart.axes, {}, []
        for cell in cells:
            rows = run.cell(cell).read_eval_stats()
            steps, values = [row.meta_step for row in rows], [row.validation_loss for row in rows]
            colour = to_hex(shades[cell.level_name])
            (line,) = axes.plot(steps, values, color=colour, lw=1.4, marker="o", ms=3)
            chart.say(line, f"{cell.level_name}, seed {cell.seed}: {values[-1]:.3f} after {steps[-1]} meta-steps")
            chart.rows += [{cell.axis: cell.value or cell.n_tasks, "seed": cell.seed, **asdict(row)} for row in rows]
            ends[cell.level_name] = (float(steps[-1]), float(values[-1]), cell.level_name, colour)
            losses += values
        loss_ticks(axes, np.array(losses))
        axes.set_xlabel("meta-step")
        axes.set_ylabel("validation loss, nats")
        label_ends(axes, list(ends.values()))
    return chart


def draw_adaptation(run: RunDirectory) -> Chart | None:
    """Query accuracy over inner steps from the pretrained model and from the smallest, best and largest level."""
    curves = _adaptation_curves(run)
    if not curves:
        return None
    chart = new_chart("adaptation", "Query accuracy on test tasks over inner steps")
    with drawing_style():
        axes, ends = chart.axes, []
        for (name, points), colour in zip(curves.items(), (GREY, ORANGE, GREEN, BLUE), strict=False):
            places = np.arange(len(points))
            accuracies = [point.accuracy for point in points]
            axes.plot(places, accuracies, color=colour, lw=1.6)
            for place, point in zip(places, points, strict=True):
                (dot,) = axes.plot([place], [point.accuracy], "o", ms=4.5, color=colour)
                said = f"{name}, {point.inner_step} inner steps: {point.accuracy:.1%}, loss {point.loss:.3f}"
                chart.say(dot, said)
                chart.rows.append({"start": name, **asdict(point)})
            ends.append((float(places[-1]), float(accuracies[-1]), name, colour))
        steps = [point.inner_step for point in next(iter(curves.values()))]
        axes.set_xticks(range(len(steps)), [str(step) for step in steps])
        config = run.config()
        if config.test_steps in steps:
            axes.axvline(steps.index(config.test_steps), color=INK, lw=0.8, ls=":")
            axes.text(steps.index(config.test_steps) + 0.06, 0.02, "as in the law", fontsize=9)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("inner steps on the support set")
        axes.set_ylabel("query accuracy")
        label_ends(axes, ends)
        tuned = any(point.inner_lr is not None for points in curves.values() for point in points)
        shown = "every point at its best rate on validation tasks" if tuned else "some test tasks at one rate"
        chart.figure.supxlabel(f"first seed · {shown}", fontsize=8.5, color=GREY)
    return chart


def _adaptation_curves(run: RunDirectory) -> dict[str, list[CurvePoint]]:
    """By start: the pretrained model first, then rising levels; those that were measured."""
    curves = {}
    for baseline in run.read_baselines().values():
        if baseline.adaptation_curve:
            curves["pretrained"] = baseline.adaptation_curve
    seed = run.config().seeds[0]
    results = run.results()
    for level in shown_levels(run):
        cell = next((r.cell for r in results if r.level == level and r.seed == seed), None)
        if cell is not None and (points := run.cell(cell).read_adaptation_curve()):
            curves[cell.level_name] = points
    return curves


def draw_inner_rates(run: RunDirectory) -> Chart | None:
    """Learned rates of the inner loop, matrices × steps, of the first seed's largest level that has any."""
    found = [(cell, rates) for cell in run.cells() if (rates := run.cell(cell).read_inner_rates())]
    found = [(cell, rates) for cell, rates in found if cell.seed == found[0][0].seed]
    if not found:
        return None
    cell, rates = found[-1]
    matrices = list(dict.fromkeys(row.matrix for row in rates))
    grid = np.array([[row.rate for row in rates if row.matrix == matrix] for matrix in matrices])
    title = f"Learned rates of the inner loop, {cell.level_name}, seed {cell.seed}"
    chart = new_chart("inner_rates", title, 7.8, 0.2 * len(matrices) + 1.3)
    chart.rows = [asdict(row) for row in rates]
    with drawing_style():
        axes = chart.axes
        image = axes.imshow(grid, aspect="auto", cmap="viridis", norm=LogNorm())
        for place, row in zip(np.ndindex(grid.shape), rates, strict=True):
            (dot,) = axes.plot([place[1]], [place[0]], "s", ms=7, alpha=0)
            chart.say(dot, f"{row.matrix}, inner step {row.inner_step}: {row.rate:.2g}")
        axes.set_yticks(range(len(matrices)), [_short(matrix) for matrix in matrices], fontsize=7)
        axes.set_xticks(range(grid.shape[1]), [str(k + 1) for k in range(grid.shape[1])])
        axes.set_xlabel("inner step")
        chart.figure.colorbar(image, label="rate")
    return chart


def draw_difficulty(classes: list[ClassDifficulty]) -> Chart | None:
    """Recall of the hardest test classes, and what each is most often taken for."""
    if not classes:
        return None
    shown = classes[:SHOWN_CLASSES][::-1]
    chart = new_chart("difficulty", "Recall of the hardest test classes", 7.8, 0.36 * len(shown) + 1.3)
    chart.rows = [
        {
            "class": c.name,
            "recall": c.recall,
            "queries": c.n,
            "most_often_taken_for": c.taken_for or "",
            "times": c.n_taken,
        }
        for c in classes
    ]
    with drawing_style():
        axes = chart.axes
        for place, c in enumerate(shown):
            axes.plot([0, c.recall], [place, place], color=GREY, lw=0.8)
            (dot,) = axes.plot([c.recall], [place], "o", ms=6, color=BLUE)
            instead = f"; most often taken for {c.taken_for} ({c.n_taken / c.n:.0%})" if c.taken_for else ""
            chart.say(dot, f"{c.name}: recall {c.recall:.1%} of {c.n} queries{instead}")
            if c.taken_for:
                taken = f"{c.n_taken / c.n:.0%} as {_short(c.taken_for)}"
                axes.text(c.recall + 0.02, place, taken, va="center", fontsize=8.5, color=GREY)
        axes.set_yticks(range(len(shown)), [_short(c.name) for c in shown], fontsize=9.5)
        axes.set_xlim(0, 1.3)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("recall: share of a class's queries given its own label")
    return chart


def _short(name: str, most: int = 38) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
