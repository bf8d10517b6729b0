"""Figures of laws and surfaces: every form has its name, and a surface is drawn where a run has the data for it."""

from pathlib import Path

import numpy as np
import pytest

from reptile_scaling.analysis.surfaces_of_run import SurfaceOfRun, is_enough, surfaces_of_run
from reptile_scaling.laws import SURFACE_LAWS, SurfaceTable
from reptile_scaling.laws.forms import FORMS
from reptile_scaling.laws.surface_forms import CLASSES, INNER_STEPS
from reptile_scaling.report.figures import CURVE_LABELS
from reptile_scaling.report.surfaces import surface_charts
from reptile_scaling.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def surfaces(committed_run: Path) -> dict[str, SurfaceOfRun]:
    return surfaces_of_run(RunDirectory(committed_run))


def test_every_form_has_its_label() -> None:
    assert CURVE_LABELS.keys() == FORMS.keys()
    assert len(set(CURVE_LABELS.values())) == len(FORMS)


def test_committed_run_shows_visits_and_inner_steps_and_no_classes(
    surfaces: dict[str, SurfaceOfRun], committed_run: Path
) -> None:
    assert list(surfaces) == ["meta_steps", "inner_steps"]
    run = RunDirectory(committed_run)
    evaluations = [row for cell in run.cells() for row in run.cell(cell).read_eval_stats() if row.meta_step > 0]
    assert surfaces["meta_steps"].table.loss.tolist() == [row.validation_loss for row in evaluations]
    # 100 meta-steps of 4 tasks: the one task of N = 1 was visited 400 times
    assert surfaces["meta_steps"].table.z.max() == run.config().num_meta_steps * run.config().meta_batch_size


def test_surface_figure_has_every_row_a_curve_for_each_n_and_the_best_visits(surfaces: dict[str, SurfaceOfRun]) -> None:
    charts = surface_charts(surfaces)
    assert [chart.name for chart in charts] == ["surface_meta_steps", "surface_inner_steps"]
    for chart, surface in zip(charts, surfaces.values(), strict=True):
        table = surface.table
        assert [row["loss"] for row in chart.rows] == table.loss.tolist()
        curves = [line for line in chart.axes.get_lines() if str(line.get_label()).startswith("N = ")]
        assert len(curves) == np.unique(table.n_tasks).size
    page = charts[0].inline()
    value, low, high = surfaces["meta_steps"].law.answers["best_visits_at_1"]
    assert f"N = 1: best visited {value:.3g} times, 95 % interval {low:.3g} to {high:.3g}" in page
    assert "mathdefault" not in page  # ticks are plain numbers


def test_classes_that_seeds_happen_to_meet_are_no_axis() -> None:
    n = np.repeat([2.0, 4.0, 8.0], 4)
    met = np.array([8.0, 9, 10, 11, 15, 16, 17, 18, 20, 21, 22, 23])
    names = tuple(map(str, range(12)))
    assert not is_enough(CLASSES, SurfaceTable(n, met, np.ones(12), names, "classes"))
    met[8:] = 5.0, 10.0, 15.0, 20.0
    table = SurfaceTable(n, met, 1.0 + n**-0.5 + met**-0.5, names, "classes")
    assert is_enough(CLASSES, table)
    (chart,) = surface_charts({"classes": SurfaceOfRun(table, SURFACE_LAWS["classes"](table, n_draws=10))})
    assert chart.axes.get_xlabel() == "classes" and chart.axes.get_legend() is not None
    assert not is_enough(CLASSES, SurfaceTable(np.ones(12), met, np.ones(12), names, "classes"))


def test_two_numbers_of_inner_steps_are_no_surface() -> None:
    n, steps = np.repeat([2.0, 4.0, 8.0], 2), np.tile([1.0, 3.0], 3)
    assert not is_enough(INNER_STEPS, SurfaceTable(n, steps, np.ones(6), ("a", "a", "b", "b", "c", "c"), "inner steps"))
