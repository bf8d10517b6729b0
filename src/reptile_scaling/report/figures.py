"""The two figures people paste into slides. Colours are Okabe & Ito's, safe for the colour-blind."""

import textwrap
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from scipy.stats import t

from reptile_scaling.laws import Law
from reptile_scaling.runs import BaselineResult, CellResult
from reptile_scaling.storage import write_bytes

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
# The form a verdict names, or the one whose curve is shown beside it.
CURVE_OF_VERDICT = {"power": "power", "power_floor": "power_floor", "log_linear": "log_linear"}
CURVE_LABELS = {"power": "power law", "power_floor": "power law with floor", "log_linear": "log-linear law"}
STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "figure.dpi": 160,
}


def draw_scaling(results: list[CellResult], law: Law | None, sentence: str, path: Path) -> None:
    """Meta-test loss over N_tasks, log-log: cells, level means with 95 % intervals, and the law where there is one."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
        levels = np.array(sorted({r.n_tasks for r in results}), dtype=float)
        of_level = [np.array([r.meta_test_loss for r in results if r.n_tasks == n]) for n in levels]
        for n, losses in zip(levels, of_level, strict=True):
            axes.scatter(np.full(len(losses), n), losses, s=22, color=BLUE, alpha=0.45, linewidths=0, zorder=3)
        means = np.array([losses.mean() for losses in of_level])
        axes.errorbar(
            levels, means, yerr=_half_widths(of_level), fmt="o", ms=7, color=BLUE, capsize=3, lw=1.4, zorder=4
        )
        if law is not None:
            _draw_law(axes, law, levels)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes, levels, np.concatenate(of_level))
        axes.set_xlabel("meta-training tasks, N")
        axes.set_ylabel("meta-test loss, nats per query utterance")
        axes.set_title(_wrapped(sentence), fontsize=10.5)
        n_seeds, n_test = len({r.seed for r in results}), results[0].num_meta_test_tasks
        note = f"small dots: cells · large: mean of {n_seeds} seeds, 95 % interval · {n_test} shared test tasks"
        figure.supxlabel(note, fontsize=8.5, color=GREY)
        _save(figure, path)


def _half_widths(of_level: list[np.ndarray]) -> np.ndarray:
    """95 % interval of a level's mean, from the standard deviation pooled over levels; 0 with one seed a level."""
    degrees = sum(len(losses) - 1 for losses in of_level)
    if degrees == 0:
        return np.zeros(len(of_level))
    # Relative spread, since losses at small N are several times those at large N.
    squares = sum(float(np.square(losses / losses.mean() - 1).sum()) for losses in of_level)
    relative = np.sqrt(squares / degrees)
    return np.array([t.ppf(0.975, degrees) * relative * x.mean() / np.sqrt(len(x)) for x in of_level])


def _draw_law(axes: Axes, law: Law, levels: np.ndarray) -> None:
    verdict = law.as_json()["verdict"]["form"]
    if verdict not in CURVE_OF_VERDICT:
        return
    grid = np.geomspace(levels.min(), levels.max(), 120)
    predicted = law.predict(grid)
    axes.fill_between(grid, predicted.low, predicted.high, color=ORANGE, alpha=0.15, linewidth=0)
    axes.plot(grid, predicted.value, color=ORANGE, lw=1.8)
    # Above the band at a quarter of the way: a falling curve leaves that corner free.
    place = len(grid) // 4
    anchor = (grid[place], predicted.high[place])
    axes.annotate(CURVE_LABELS[verdict], anchor, xytext=(8, 14), textcoords="offset points", color=ORANGE)


def _plain_ticks(axes: Axes, levels: np.ndarray, losses: np.ndarray) -> None:
    """Ticks at the levels themselves, and round losses, as plain numbers."""
    axes.set_xticks(levels, [f"{n:.0f}" for n in levels])
    axes.xaxis.set_minor_locator(NullLocator())
    candidates = np.array([m * 10.0**e for e in range(-4, 4) for m in (1, 1.5, 2, 3, 5, 7)])
    inside = candidates[(candidates >= losses.min() * 0.9) & (candidates <= losses.max() * 1.1)]
    if len(inside) >= 2:
        axes.set_yticks(inside)
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_baselines(results: list[CellResult], baselines: list[BaselineResult], path: Path) -> None:
    """Accuracy on the shared test tasks: smallest, best and largest N beside every baseline, 95 % intervals."""
    rows = [(b.label, b.accuracy, _interval(b.accuracy_std, len(b.task_accuracies)), GREY) for b in baselines]
    for n in _shown_levels(results):
        cells = [r for r in results if r.n_tasks == n]
        accuracy = float(np.mean([r.meta_test_accuracy for r in cells]))
        spread = float(np.mean([r.meta_test_accuracy_std for r in cells]))
        rows.append((f"meta-trained on N = {n} tasks", accuracy, _interval(spread, cells[0].num_meta_test_tasks), BLUE))
    rows.sort(key=lambda row: row[1])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.8, 0.48 * len(rows) + 1.4), layout="constrained")
        places = [float(place) for place in range(len(rows))]
        axes.barh(
            places,
            [r[1] for r in rows],
            xerr=[r[2] for r in rows],
            color=[r[3] for r in rows],
            height=0.62,
            error_kw={"ecolor": "#333333", "lw": 1.2, "capsize": 2.5},
        )
        for place, (_, accuracy, half_width, _) in zip(places, rows, strict=True):
            axes.text(accuracy + half_width + 0.01, place, f"{accuracy:.1%}", va="center", fontsize=10)
        chance = results[0].chance_accuracy
        axes.axvline(chance, color="#333333", lw=1, ls=":")
        axes.text(chance, len(rows) - 0.4, "chance", ha="center", va="bottom", fontsize=9)
        axes.set_yticks(places, [r[0] for r in rows])
        axes.set_xlim(0, 1.08)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(f"query accuracy on the same {results[0].num_meta_test_tasks} test tasks of unseen classes")
        _save(figure, path)


def _shown_levels(results: list[CellResult]) -> list[int]:
    """Smallest, best (by loss) and largest N, each once."""
    levels = sorted({r.n_tasks for r in results})
    best = min(levels, key=lambda n: np.mean([r.meta_test_loss for r in results if r.n_tasks == n]))
    return sorted({levels[0], best, levels[-1]})


def _interval(standard_deviation: float, n_tasks: int) -> float:
    """Half-width of the 95 % interval of a mean over test tasks."""
    return 1.96 * standard_deviation / float(np.sqrt(n_tasks))


def _wrapped(text: str, width: int = 92) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _save(figure: Figure, path: Path) -> None:
    """Whole or not at all."""
    png = BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    write_bytes(path, png.getvalue())
