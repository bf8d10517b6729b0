"""The page as people and browsers meet it: what it says, what hostile names do to it, what it asks the network for."""

import base64
import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from rich.console import Console

from reptile_scaling.analysis.accuracy_law import accuracy_law_of_run, calibration_sentence
from reptile_scaling.analysis.difficulty import class_difficulties, task_difficulties
from reptile_scaling.analysis.law_of_run import law_of_run, losses_of_run
from reptile_scaling.analysis.levels import best_cells, best_level, shown_levels
from reptile_scaling.analysis.missing import has_first_curve
from reptile_scaling.analysis.standing import standing_sentence, standings
from reptile_scaling.analysis.steps_worth import worth_sentence
from reptile_scaling.analysis.surfaces_of_run import surfaces_of_run
from reptile_scaling.analysis.training_facts import convergence_sentence, gain_sentence, overtraining_sentence
from reptile_scaling.config import make_config
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.laws import verdict_sentence
from reptile_scaling.learning.evaluation import count_confusions, evaluate
from reptile_scaling.learning.evaluation import test_episodes as episodes_of
from reptile_scaling.learning.evaluation import test_loop as loop_of
from reptile_scaling.learning.workbench import fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.report import draw_charts, renewal, write_report
from reptile_scaling.report.renewal import renewed_page
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import CellStatus, EvalRow

HOSTILE = (
    "<script>window.broken = 1</script>", '"><img src=x onerror="window.broken=1">', "$x^{2}$ & \\frac",
    "</svg></pre>{{ 7*7 }}",
    "007", "#000000", "übergröße 取消 🙂", "a" * 120, "' onclick='window.broken=1", "http://example.org/x.png",
    "=1+1", "@\u202egnp.live\u2069 nul\x00l",
)  # fmt: skip

BROKEN_IMAGE = '<img src=x onerror="window.broken=1">'


@pytest.fixture(scope="module")
def finished(toy_settings, toy_rows, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A whole small run whose class names and texts do all they can to break the page."""
    folder = tmp_path_factory.mktemp("hostile")
    # Whichever classes the split makes test classes, each brings an element of its own.
    names = dict(zip(sorted({label for _, label in toy_rows}), (name + BROKEN_IMAGE for name in HOSTILE), strict=True))
    lines = [json.dumps({"text": f"{text} {names[label]}", "label": names[label]}) for text, label in toy_rows]
    lines[0] = json.dumps({"text": "=cmd() " * 150_000, "label": names[toy_rows[0][1]]})  # a megabyte
    (folder / "hostile.jsonl").write_text("\n".join(lines))
    # Of this seed the words that a spreadsheet takes for formulas are test classes, which tables name.
    split = {"train": 0.3, "validation": 0.26, "seed": 234}
    settings = {
        **toy_settings,
        "curve_steps": [1, 3],
        "baselines": None,
        "class_split": split,
        "dataset": str(folder / "hostile.jsonl"),
        "num_meta_steps": 6,
        "eval_interval": 1,
    }
    run = RunDirectory(folder / "run <b>&")
    run_sweep(plan_sweep(make_config(settings), run), run)
    write_report(run)
    return run


def test_every_figure_is_a_file_and_in_the_page(finished: RunDirectory) -> None:
    page = finished.report_path.read_text()
    charts = draw_charts(finished, law_of_run(finished), surfaces_of_run(finished))
    surfaces = {"surface_meta_steps"}  # two numbers of inner steps and one of classes are no surface
    assert set(charts) == {"scaling", "accuracy", "baselines", "adaptation", "learning", "difficulty", *surfaces}
    for name, chart in charts.items():
        assert f'aria-label="{html.escape(chart.title)}"' in page
        table = pd.read_csv(io.BytesIO(base64.b64decode(chart.data_link().partition("base64,")[2])))
        assert len(table) == len(chart.rows) > 0, name
    for stem in ("scaling_law_plot", "baseline_comparison", "figures/accuracy", "figures/difficulty"):
        for kind in ("png", "svg"):
            assert (finished.path / f"{stem}.{kind}").stat().st_size > 1000, (stem, kind)


def test_same_run_draws_the_same_bytes(finished: RunDirectory) -> None:
    before = finished.report_path.read_bytes(), (finished.path / "scaling_law_plot.svg").read_bytes()
    write_report(finished)
    assert before == (finished.report_path.read_bytes(), (finished.path / "scaling_law_plot.svg").read_bytes())


def test_no_table_has_a_formula_for_a_spreadsheet(finished: RunDirectory) -> None:
    links = re.findall(r"data:text/csv;charset=utf-8;base64,([^\"]+)", finished.report_path.read_text())
    tables = [path.read_text() for path in finished.path.rglob("*.csv")] + [base64.b64decode(x).decode() for x in links]
    cells = {cell for table in tables for line in csv.reader(io.StringIO(table)) for cell in line if cell}
    assert {cell for cell in cells if cell[0] in "=+-@\t\r" and not re.fullmatch(r"-[\d.e-]+", cell)} == set()
    assert {cell[:2] for cell in cells if cell.startswith("'")} >= {"'=", "'@"} and links
    read = {c.true_class for cell in finished.cells() for c in finished.cell(cell).read_confusions()}
    assert read <= {name + BROKEN_IMAGE for name in HOSTILE}


def test_hostile_names_are_text(finished: RunDirectory) -> None:
    page = finished.report_path.read_text()
    assert page.count("<script>") == 1 and "<img" not in page
    names = {name for task in finished.read_pool("test") for name in task.classes}
    assert names and all(str(escape(name)) in page for name in names)
    parser = Addresses()
    parser.feed(page)
    # Nothing that a browser would fetch, and nothing that runs but the page's own script.
    assert parser.found and all(address.startswith(("data:", "#")) for address in parser.found)
    assert parser.handlers == [] and parser.tags.isdisjoint({"img", "i", "iframe", "object"})


class Addresses(HTMLParser):
    """What the page refers to, its event handlers and its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.handlers: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
                self.found.append(value or "")
            self.found += re.findall(r"url\(([^)]*)\)", value or "") if name == "style" else []
            self.handlers += [name] if name.startswith("on") else []


def test_difficulty_counts_every_query(finished: RunDirectory) -> None:
    config, pool = finished.config(), finished.read_pool("test")
    n_seeds = len(config.seeds)
    asked = Counter(name for task in pool for name in task.classes)
    found = class_difficulties(finished)
    assert {c.name: c.n for c in found} == {name: n * config.k_query * n_seeds for name, n in asked.items()}
    assert [c.recall for c in found] == sorted(c.recall for c in found)
    tasks = task_difficulties(finished)
    recall = sum(c.recall * c.n for c in found) / sum(c.n for c in found)
    assert np.mean([t.accuracy for t in tasks]) == pytest.approx(recall)
    assert tasks[0].accuracy == min(t.accuracy for t in tasks) and len(tasks[0].classes) == config.n_way


def test_confusions_and_curve_equal_slow_twins(toy_settings) -> None:
    config = make_config({**toy_settings, "lora_layers": "top-1"})
    corpus = open_corpus(config)
    workbench = open_workbench(config, corpus, "cpu")
    episodes, theta = episodes_of(workbench), fresh_initialisation(workbench, 0)
    loop = loop_of(config)
    figures = evaluate(workbench.engine, theta, episodes, loop)
    names = corpus.dataset.class_names
    counted = count_confusions(episodes, figures.predicted, names)
    slow: Counter[tuple[str, str]] = Counter()
    for t, episode in enumerate(episodes):
        for way in range(config.n_way):
            for q in range(config.k_query):
                guess = figures.predicted[t, way * config.k_query + q]
                slow[names[episode.classes[way]], names[episode.classes[guess]]] += 1
    assert {(pair.true_class, pair.predicted): pair.n for pair in counted} == slow
    assert figures.zero_step_loss.mean() == pytest.approx(np.log(config.n_way), abs=1e-6), "zeros know nothing"
    np.testing.assert_allclose(figures.before.confidence, 1 / config.n_way, rtol=1e-6)
    # The slot given is the likeliest, so its log-probability is no loss where an answer is right, and less elsewhere.
    bound, right = -np.log(figures.after.confidence).mean(axis=1), figures.accuracy == 1
    assert (figures.loss >= bound - 1e-6).all()
    np.testing.assert_allclose(figures.loss[right], bound[right], rtol=1e-5)
    assert (figures.loss[~right] > bound[~right] + 1e-3).all()


def test_calibration_stands_beside_the_accuracy_law(finished: RunDirectory, tmp_path) -> None:
    for r in finished.results():
        own = np.array([task.calibration_error for task in finished.cell(r.cell).read_test_tasks()])
        # Sets of equal size: bins of all answers together are no further off than the mean of each task's own.
        assert r.calibration_error is not None and 0 < r.calibration_error <= own.mean() + 1e-6
        assert r.calibration_error_by_chance is not None and 0 < r.calibration_error_by_chance < 1
    told, page = calibration_sentence(finished), finished.report_path.read_text()
    at_one = np.mean([r.calibration_error for r in finished.results() if r.n_tasks == 1])
    assert f"(expected calibration error) by {at_one:.1%} at N = 1 and " in told
    assert f"By accuracy: {escape(verdict_sentence(accuracy_law_of_run(finished)))} {told}" in page
    copy = copy_tested_last(finished, tmp_path / "copy")
    result = copy.cell(Cell(1, 0)).path / "final_result.json"
    old = json.loads(result.read_text())
    for younger in ("sha256", "calibration_error", "calibration_error_by_chance"):
        del old[younger]
    result.write_text(json.dumps(old))
    assert calibration_sentence(copy) == ""


def test_rival_of_another_loop_is_met_by_cells_that_are_tuned(finished: RunDirectory) -> None:
    """By hand: each cell at the number of steps of lowest loss on its validation tasks."""
    cells, rival = best_cells(finished), finished.read_baselines()["no_meta_tuned"]
    ours = []
    for cell in cells:
        curve = finished.cell(cell).read_adaptation_curve()
        best = min(curve, key=lambda point: point.validation_loss).inner_step
        ours.append([row.accuracy for row in finished.cell(cell).read_curve_readings() if row.inner_step == best])
    by_name = {standing.name: standing for standing in standings(finished)}
    assert {name for name, standing in by_name.items() if not standing.is_tuned} == {"no_meta", "joint"}
    assert by_name["no_meta_tuned"].gain == pytest.approx(100 * (np.mean(ours) - rival.accuracy))
    as_set = np.mean([finished.cell(cell).read_result().meta_test_accuracy for cell in cells])
    assert by_name["no_meta"].gain == pytest.approx(100 * (as_set - finished.read_baselines()["no_meta"].accuracy))
    assert f"({as_set:.1%} in the same inner loop, {np.mean(ours):.1%} at rate and steps" in standing_sentence(finished)


def test_worth_is_measured_at_the_steps_fine_tuning_chose_on_validation_tasks(finished: RunDirectory) -> None:
    curve = finished.read_baselines()["no_meta_tuned"].adaptation_curve
    chosen = min(curve, key=lambda point: point.validation_loss)
    steps = "1 inner step" if chosen.inner_step == 1 else f"{chosen.inner_step} inner steps"
    assert f"fine-tuning's best, {chosen.accuracy:.1%} at {steps}" in worth_sentence(finished)


def test_worth_waits_until_all_initialisations_are_fine_tuned(finished: RunDirectory, tmp_path) -> None:
    """The page is drawn while baselines come in: tables of the first initialisations are there before the result."""
    shutil.copytree(finished.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    (run.path / "baselines" / "no_meta_tuned.json").unlink()
    assert list(run.baseline_folder("no_meta_tuned").glob("seed_*_curve_tasks.csv"))
    assert worth_sentence(run) == ""


def test_law_of_a_run_that_goes_on_takes_the_cells_it_began_with(finished: RunDirectory, monkeypatch) -> None:
    """The page is drawn while cells come in: one more is done than when the results were read."""
    before = finished.results()[:-1]
    monkeypatch.setattr(RunDirectory, "results", lambda self: before)
    table = losses_of_run(finished)
    assert table.task_losses is not None
    assert len(table.task_losses) == len(table.x) == len(before)


def copy_tested_last(finished: RunDirectory, folder: Path) -> RunDirectory:
    """A run whose files may be changed, and whose cells were tested at their last meta-step."""
    shutil.copytree(finished.path, folder)
    for sums in folder.rglob("SHA256SUMS"):
        sums.unlink()
    facts = json.loads((folder / "experiment.json").read_text())
    del facts["sha256"]
    facts["config"]["select"] = "last"
    (folder / "experiment.json").write_text(json.dumps(facts))
    return RunDirectory(folder)


def test_sentences_say_what_the_tables_hold(finished: RunDirectory, tmp_path) -> None:
    results = finished.results()
    first, last = (
        np.mean([r.meta_test_loss for r in results if r.n_tasks == n])
        for n in (min(r.n_tasks for r in results), max(r.n_tasks for r in results))
    )
    assert f"from {first:.3f} to {last:.3f} nats" in gain_sentence(finished)
    copy = copy_tested_last(finished, tmp_path / "copy")
    for losses, expected in (((3, 2, 1), "still improving"), ((2, 1, 1), "had stopped"), ((2, 1, 2), "best on")):
        for seed in finished.config().seeds:
            rows = [EvalRow(i, float(loss), 0.5, 0.2) for i, loss in enumerate(losses)]
            copy.cell(Cell(16, seed)).write_eval_stats(rows)
        assert expected in convergence_sentence(copy)


def test_a_fall_that_is_overtraining_is_told_from_one_that_is_not(finished: RunDirectory, tmp_path) -> None:
    copy = copy_tested_last(finished, tmp_path / "copy")
    law = law_of_run(copy)
    falling = replace(law, verdict=replace(law.verdict, form="power", scaling_detected=True))
    flat = replace(law, verdict=replace(law.verdict, form="flat", scaling_detected=False))
    for small, said in (((1.1, 1.5, 2.0), True), ((2.2, 2.1, 2.0), False)):
        for cell in copy.cells():
            losses = (1.2, 1.1, 1.0) if cell.n_tasks == 16 else small
            rows = [EvalRow(i, loss, 0.5, 0.2) for i, loss in enumerate(losses)]
            copy.cell(cell).write_eval_stats(rows)
        sentence = overtraining_sentence(copy, falling)
        assert ("N = 1 has 1.100 nats there and N = 16 1.000; at the end they have 2.000 and 1.000" in sentence) == said
        assert bool(sentence) == said
        assert overtraining_sentence(copy, flat) == ""


@pytest.mark.parametrize("best", [2, 16])
def test_best_level_is_chosen_on_validation_tasks(best: int, finished: RunDirectory, tmp_path) -> None:
    """Whatever the test tasks say: the best of many levels on these would look better than it is."""
    copy = copy_tested_last(finished, tmp_path / "copy")
    for cell in copy.cells():
        loss = 1.0 if cell.n_tasks == best else 2.0
        rows = [EvalRow(1, 0.1, 0.5, 0.2), EvalRow(2, loss, 0.5, 0.2)]
        copy.cell(cell).write_eval_stats(rows)
    assert best_level(copy) == best
    assert shown_levels(copy) == sorted({1, best, 16})
    assert standing_sentence(copy).startswith(f"Meta-trained on N = {best} tasks")


def unfinished(finished: RunDirectory, copy: RunDirectory) -> None:
    """A run that has its smallest level, and no baseline yet."""
    shutil.copytree(finished.path, copy.path)
    for cell in copy.cells():
        if cell.n_tasks > 1:
            (copy.cell(cell).path / "final_result.json").unlink()
            copy.cell(cell).write_status(CellStatus("running", 3, 6))
    copy.report_path.unlink()
    shutil.rmtree(copy.path / "baselines")
    copy.expect_baselines(["no_meta", "in_context"])


def test_page_of_a_run_with_one_level_says_what_is_missing_and_loads_itself_again(finished, tmp_path) -> None:
    copy = RunDirectory(tmp_path / "copy")
    unfinished(finished, copy)
    write_report(copy, is_running=True)
    page = copy.report_path.read_text()
    missing = "Not here yet: 8 of 10 cells (N = 2, N = 4, N = 8, N = 16) and the baselines in_context, no_meta."
    assert missing in page and '<meta http-equiv="refresh" content="20">' in page
    write_report(copy)
    page = copy.report_path.read_text()
    assert missing in page and "refresh" not in page  # it was stopped: nobody will write this page again
    finished_page = finished.report_path.read_text()
    assert "Not here yet" not in finished_page and "refresh" not in finished_page


def test_page_is_drawn_from_the_first_curve_on_and_again_when_a_baseline_comes_in(finished, tmp_path, monkeypatch):
    copy, spoken = RunDirectory(tmp_path / "copy"), io.StringIO()
    unfinished(finished, copy)
    results = {cell: finished.cell(cell).path / "final_result.json" for cell in copy.cells() if cell.n_tasks == 1}
    for cell in results:
        (copy.cell(cell).path / "final_result.json").unlink()
    monkeypatch.setattr(renewal, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(renewal, "SECONDS_BETWEEN_PAGES", 0.0)
    drawn: list[frozenset[str]] = []
    awaited: list[bool] = []

    def draw(run: RunDirectory, stopped: threading.Event, *, is_awaited: bool) -> str:
        drawn.append(renewal.finished_names(run))
        awaited.append(is_awaited)
        return "the verdict"

    def wait_for(n_pages: int) -> None:
        until = time.monotonic() + 20
        while len(drawn) < n_pages and time.monotonic() < until:
            time.sleep(0.05)

    monkeypatch.setattr(renewal, "draw_apart", draw)
    with renewed_page(copy, Console(file=spoken)):
        first, second = results
        shutil.copy(results[first], copy.cell(first).path)
        time.sleep(0.5)
        assert drawn == []  # one seed of one level is no curve
        shutil.copy(results[second], copy.cell(second).path)
        wait_for(1)
        copy.write_baseline(finished.read_baselines()["no_meta"])
        wait_for(2)
    cells = {first.name, second.name}
    assert drawn == [cells, cells | {"no_meta"}]
    assert awaited == [True, False]  # someone waits for the first page; the second takes what the run leaves
    assert spoken.getvalue().count("report.html, so far: the verdict") == spoken.getvalue().count("the verdict") == 1


def test_one_seed_at_every_level_is_a_curve(finished, tmp_path) -> None:
    copy = RunDirectory(tmp_path / "copy")
    shutil.copytree(finished.path, copy.path)
    for cell in copy.cells():
        if cell.seed == 1:
            shutil.rmtree(copy.cell(cell).path)
    assert has_first_curve(copy)
    shutil.rmtree(copy.cell(Cell(16, 0)).path)
    assert not has_first_curve(copy)


def test_page_of_a_running_run_is_drawn_by_a_process_of_its_own(finished, tmp_path, monkeypatch) -> None:
    copy, priorities = RunDirectory(tmp_path / "copy"), []
    unfinished(finished, copy)
    monkeypatch.setattr(renewal.os, "setpriority", lambda _which, _pid, priority: priorities.append(priority))
    said = renewal.draw_apart(copy, threading.Event())
    assert priorities == [19]
    assert renewal.draw_apart(copy, threading.Event(), is_awaited=True) == said
    assert priorities == [19]  # a page that someone waits for keeps the run's own
    assert said == verdict_sentence(law_of_run(copy))
    assert "This page" not in said and "this page renews itself" in copy.report_path.read_text()
    shutil.rmtree(copy.cell(Cell(1, 0)).path)
    shutil.rmtree(copy.cell(Cell(1, 1)).path)
    assert "this page could not be drawn yet" in str(renewal.draw_apart(copy, threading.Event()))
    stopped = threading.Event()
    stopped.set()
    assert renewal.draw_apart(copy, stopped) is None


def browser() -> str:
    """A Chromium; its absence fails CI and skips the test elsewhere."""
    found = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
    if found is None:
        assert not os.environ.get("CI"), "CI needs chromium: see .ci/run"
        pytest.skip("no chromium on this machine: install it to test the page in a browser")
    return found


PROBE = """
<script>
addEventListener("load", () => {
  const mark = document.querySelector("#scaling-0");
  mark.dispatchEvent(new Event("mouseenter"));
  const said = document.getElementById("tip").textContent;
  mark.dispatchEvent(new Event("mouseleave"));
  document.documentElement.dataset.probe = JSON.stringify({
    said, expected: mark.getAttribute("aria-label"), hidden: document.getElementById("tip").hidden,
    broken: window.broken ?? 0, fetched: performance.getEntriesByType("resource").map((e) => e.name),
    charts: document.querySelectorAll("figure svg").length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  });
});
</script>
"""


@pytest.mark.parametrize("width", [1200, 390])
def test_page_in_a_real_browser(width: int, finished: RunDirectory, tmp_path) -> None:
    page = tmp_path / "page.html"
    page.write_text(finished.report_path.read_text().replace("</body>", PROBE + "</body>"))
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900", "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", str(page),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "CONSOLE" not in shown.stderr, shown.stderr[-2000:]
    found = re.search(r'data-probe="([^"]*)"', shown.stdout)
    assert found, shown.stdout[:500]
    probe = json.loads(html.unescape(found[1]))
    assert probe["said"] == probe["expected"] != ""
    assert probe["hidden"] and probe["broken"] == 0 and probe["fetched"] == []
    assert probe["charts"] == 7
    assert probe["overflow"] <= 0, "the page itself must not scroll sideways"
