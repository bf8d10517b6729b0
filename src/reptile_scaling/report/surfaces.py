"""Figures of surfaces: loss over visits, inner steps or classes, a curve for each N, and where more hurts."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_hex

from reptile_scaling.analysis.surfaces_of_run import SurfaceOfRun
from reptile_scaling.laws.surface_forms import META_STEPS
from reptile_scaling.report.drawing import INK, Chart, drawing_style, label_ends, level_ticks, loss_ticks, new_chart

LOSSES = {
    "meta_steps": "validation loss, nats per query utterance",
    "inner_steps": "test loss, nats per query utterance",
    "classes": "meta-test loss, nats per query utterance",
}


def surface_charts(surfaces: Mapping[str, SurfaceOfRun]) -> list[Chart]:
    """One for each surface that was fitted."""
    return [_draw(name, surface) for name, surface in surfaces.items()]


def _draw(name: str, surface: SurfaceOfRun) -> Chart:
    """Light to dark is small to large N; dots were measured, lines with 95 % bands are the surface."""
    table, law = surface.table, surface.law
    chart = new_chart(f"surface_{name}", f"{LOSSES[name].partition(',')[0].capitalize()} over {table.z_name}, by N")
    levels = np.unique(table.n_tasks)
    shades = plt.get_cmap("viridis")(np.linspace(0.05, 0.8, levels.size))[::-1]
    with drawing_style():
        axes, ends = chart.axes, []
        for n, shade in zip(levels.tolist(), map(to_hex, shades), strict=True):
            rows = table.n_tasks == n
            z, loss = table.z[rows], table.loss[rows]
            (dots,) = axes.plot(z, loss, "o", ms=3.5, color=shade, alpha=0.55, mew=0)
            chart.say(dots, f"N = {n:g}: {rows.sum()} losses of {len(set(np.array(table.run)[rows]))} cells")
            grid = np.geomspace(z.min(), z.max(), 60)
            value, low, high = law.predict(np.full(60, n), grid)
            axes.fill_between(grid, low, high, color=shade, alpha=0.12, linewidth=0)
            single = "s" if z.min() == z.max() else None  # a curve over one place has no length
            (line,) = axes.plot(grid, value, color=shade, lw=1.6, marker=single, ms=5, label=f"N = {n:g}")
            chart.say(line, f"N = {n:g}: {value[0]:.3f} nats at {grid[0]:.3g} {table.z_name}, {value[-1]:.3f} at most")
            ends.append((float(grid[-1]), float(value[-1]), f"N = {n:g}", shade))
            if law.form is META_STEPS:
                _mark_best(chart, surface, n)
        level_ticks(axes, _round_numbers(np.unique(table.z)))
        loss_ticks(axes, table.loss)
        axes.set_xlabel(table.z_name)
        axes.set_ylabel(LOSSES[name])
        chart.figure.supxlabel(_legend(surface), fontsize=8.5)
        if len({x for x, *_ in ends}) == 1:
            label_ends(axes, ends)
        else:  # names at the ends would lie on other curves
            axes.legend(fontsize=9, frameon=False, ncols=2 if len(ends) > 4 else 1)
    columns = zip(table.n_tasks.tolist(), table.z.tolist(), table.loss.tolist(), table.run, strict=True)
    chart.rows = [{"n_tasks": n, table.z_name: z, "loss": loss, "cell": run} for n, z, loss, run in columns]
    return chart


def _round_numbers(z: Float[np.ndarray, " Z"]) -> Float[np.ndarray, " ticks"]:
    """The values themselves where they are few, else powers of ten, with 2 and 5 times these where they are few."""
    if z.size <= 8:
        return z
    decades = 10.0 ** np.arange(np.floor(np.log10(z[0])), np.ceil(np.log10(z[-1])) + 1)
    finer = np.sort(np.concatenate([decades, 2 * decades, 5 * decades]))
    inside, finer_inside = (ticks[(ticks >= z[0] * 0.99) & (ticks <= z[-1] * 1.01)] for ticks in (decades, finer))
    return np.asarray(inside if inside.size >= 4 else finer_inside)


def _mark_best(chart: Chart, surface: SurfaceOfRun, n: float) -> None:
    """The number of visits with the lowest loss at N, with its interval."""
    value, low, high = surface.law.answers[f"best_visits_at_{n:g}"]
    height = surface.law.predict(np.array([n]), np.array([value]))[0]
    chart.axes.plot([low, high], [height[0], height[0]], color=INK, lw=1.0, zorder=4)
    (mark,) = chart.axes.plot([value], height, "D", ms=5, color=INK, zorder=5)
    chart.say(mark, f"N = {n:g}: best visited {value:.3g} times, 95 % interval {low:.3g} to {high:.3g}")


def _legend(surface: SurfaceOfRun) -> str:
    best = " · diamonds: best number of visits" if surface.law.form is META_STEPS else ""
    return f"dots: measured · lines: the surface with its 95 % band{best} · misfit {surface.law.misfit:.0%}"
