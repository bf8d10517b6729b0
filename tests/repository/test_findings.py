"""What README.md and the pages of findings claim of Banking77 is what the committed tables say, computed anew."""

import filecmp
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Annotation

from reptile_scaling.analysis.law_of_run import law_of_run
from reptile_scaling.analysis.surfaces_of_run import surfaces_of_run
from reptile_scaling.report import draw_charts
from reptile_scaling.runs.directory import RunDirectory

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
SCRIPTS = ROOT / "scripts" / "experiment"
VERSION_01, TABLES = "docs/findings_version_01.md", "docs/findings_tables.md"


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    """The functions between the tables of a part and its run folder."""
    return runpy.run_path(str(SCRIPTS / "part_tables.py"))


@pytest.fixture(scope="module")
def runs(tables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every part as a run folder."""
    folder = tmp_path_factory.mktemp("parts")
    tables["unpack_all"](RESULTS, folder)
    return folder


def printed(
    script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> list[str]:
    """The lines a script of the findings prints for a folder of results."""
    monkeypatch.setattr(sys, "argv", [script, str(folder), *more])
    monkeypatch.syspath_prepend(SCRIPTS)
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    return [line for line in capsys.readouterr().out.splitlines() if line]


def unwrapped(page: str) -> str:
    """A page without its line breaks: a sentence may be wrapped."""
    return " ".join((ROOT / page).read_text().split())


def test_findings_are_recomputed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = unwrapped(VERSION_01)
    lines = printed("findings.py", RESULTS, monkeypatch, capsys)
    assert len(lines) > 60
    for line in lines:
        assert " ".join(line.split()) in page


def test_runs_on_minilm_are_recomputed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = unwrapped(TABLES)
    lines = printed("over_splits.py", RESULTS / "minilm", monkeypatch, capsys)
    assert len(lines) > 8
    for line in lines:
        assert " ".join(line.split()) in page


def test_a_learner_with_inner_steps_stands_beside_protonet_on_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = ("--beside", str(RESULTS / "minilm"))
    lines = printed("over_splits.py", RESULTS / "minilm_maml", monkeypatch, capsys, *beside)
    assert any("fine-tuning in the cells' inner loop" in line for line in lines)
    assert any(line.endswith("| here | minilm | points |") for line in lines)
    page = unwrapped(TABLES)
    for line in lines:
        assert " ".join(line.split()) in page


def test_early_stopping_is_recomputed(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = unwrapped(VERSION_01)
    verdicts = printed("early_stopping.py", runs / "banking77_smollm2", monkeypatch, capsys)[-2:]
    assert all(verdict in page for verdict in verdicts)


def test_expectations_are_recomputed(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed("expectations.py", runs / "banking77_smollm2", monkeypatch, capsys)
    assert len(lines) > 8
    page = unwrapped(VERSION_01)
    for line in lines:
        assert line in page


def test_runs_on_smollm2_and_across_domains_are_recomputed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = unwrapped(TABLES)
    for script, table in (
        ("over_splits.py", RESULTS / "words"),
        ("over_splits.py", RESULTS / "words_clinc150"),
        ("over_splits.py", RESULTS / "minilm_clinc150"),
        ("over_splits.py", RESULTS / "minilm_320"),
        ("names.py", RESULTS / "names"),
        ("classes.py", RESULTS / "classes_clinc150.csv"),
        ("across.py", RESULTS / "across.csv"),
    ):
        lines = printed(script, table, monkeypatch, capsys)
        assert len(lines) > 5
        for line in lines:
            assert " ".join(line.split()) in page


def test_the_missions_own_table_is_recomputed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = unwrapped(TABLES)
    lines = printed("mission.py", RESULTS, monkeypatch, capsys)
    assert len(lines) > 25
    for line in lines:
        assert " ".join(line.split()) in page


def by_shape(lines: list[str]) -> dict[str, list[str]]:
    """What over_splits.py prints, by the shots and names of its tables: each begins with the line that has `splits`."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if heading := re.match(r"\| (.*), \d+ splits \|", line):
            found[heading.group(1)] = []
        found[[*found][-1]].append(line)
    return found


def test_readme_quotes_the_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = unwrapped("README.md")
    of_minilm, of_words = (
        by_shape(printed("over_splits.py", RESULTS / name, monkeypatch, capsys)) for name in ("minilm", "words")
    )
    minilm, words, words_5_shots = of_minilm["1-shot"], of_words["1-shot"], of_words["5-shot"]
    across = printed("across.py", RESULTS / "across.csv", monkeypatch, capsys)

    def cells(lines: list[str], start: str) -> list[str]:
        (line,) = [line for line in lines if line.startswith(start)]
        return [cell.strip() for cell in line.split("|")]

    frozen, largest = cells(minilm, "| the cells' head"), cells(minilm, "| N = 1000")
    assert f"from {frozen[3].replace('%', ' %')} (its frozen features' own prototypes)" in page
    assert f"to {largest[3].replace('%', ' %')}, {largest[4]} points" in page
    assert f"it is {cells(words, '| 1 |')[5]} points beyond fine-tuning at one step each" in page
    assert f"and {cells(words, '| chosen')[5]} with rate and steps tuned on both sides" in page
    at_5_shots = [cells(words_5_shots, start)[5] for start in ("| 1 |", "| chosen")]
    assert "at five shots {} and {}.".format(*at_5_shots) in page
    named = of_minilm["1-shot, names in the support"]
    gains = [line.split("gains ")[1] for found in (minilm, named, words) for line in found if "accuracy gains" in line]
    on_minilm, with_names, on_smollm2 = (gain.removesuffix(" points.") for gain in gains)
    assert f"gains {on_minilm} points on MiniLM, {with_names} with names and {on_smollm2} on SmolLM2, no gain" in page
    of_names = cells(printed("names.py", RESULTS / "names", monkeypatch, capsys), "| banking77, 1-shot")
    bare, with_name = (of_names[column].removesuffix(" %") for column in (3, 4))
    assert f"lifts frozen MiniLM from {bare} to {with_name} %, {of_names[7]} points" in page
    best = cells(named, "| N = 1000")
    assert f"tasks add {best[4]} to that, to {best[3].replace('%', ' %')}" in page
    surface = " ".join(printed("classes.py", RESULTS / "classes_clinc150.csv", monkeypatch, capsys))
    (of_classes,) = re.findall(r"At N = 50, all classes instead of 10 cut the loss by \+(.*?) %", surface)
    (of_tasks,) = re.findall(r"Of 10 classes, N = 50 instead of 2 cuts the loss by \+(.*?) %", surface)
    assert f"fifty of which instead of ten cut the loss on CLINC150 by {of_classes} % where" in page
    assert f"of ten classes fifty tasks instead of two cut it by {of_tasks} %;" in page
    elsewhere = cells(printed("over_splits.py", RESULTS / "minilm_clinc150", monkeypatch, capsys), "| N = 1000")[4]
    assert f"with the same settings on CLINC150 {elsewhere}." in page
    mission = printed("mission.py", RESULTS, monkeypatch, capsys)
    (of_the_mission,) = [line for line in mission if "accuracy gains" in line and "keep their slots" not in line]
    assert f"1000, and accuracy gains {of_the_mission.split('gains ')[1].removesuffix('.')};" in page
    (below,) = [
        line for line in across if line.startswith("| clinc150") and "| 1000 |" in line and "cells' head" in line
    ]
    assert f"{below.split('|')[6].strip().removeprefix('-')} points below" in page
    assert "the last tenfold by 2 %, and nothing that people expect of a scaling law" in page
    assert any("to a floor of" in line and "to 1000, cut it by 2 %" in line for line in minilm)


def test_tables_of_a_part_survive_the_way_through_run_folders(
    tables: dict[str, Any], runs: Path, tmp_path: Path
) -> None:
    parts = sorted(table.parent for table in RESULTS.glob("*/final_results.csv"))
    assert len(parts) == 10
    for part in parts:
        again = tmp_path / part.name
        tables["pack"](runs / part.name, again)
        kept = [file for file in part.rglob("*") if file.is_file() and file.suffix != ".png"]
        names = [str(file.relative_to(part)) for file in kept]
        assert filecmp.cmpfiles(part, again, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize("name", ["banking77_smollm2", "banking77_smollm2_classes"])
def test_names_of_lines_do_not_overlap(name: str, runs: Path) -> None:
    run = RunDirectory(runs / name)
    charts = draw_charts(run, law_of_run(run), surfaces_of_run(run))
    for chart in charts.values():
        chart.figure.draw_without_rendering()
        names = [artist for artist in chart.axes.get_children() if isinstance(artist, Annotation)]
        assert len(names) > 2 or chart is not charts["scaling"]
        boxes = sorted((artist.get_window_extent() for artist in names), key=lambda box: box.y0)
        for below, above in zip(boxes, boxes[1:], strict=False):
            assert below.y1 <= above.y0 + 1 or below.x1 <= above.x0 or above.x1 <= below.x0, chart.name


def test_table_of_peers_is_that_of_the_results() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "law" / "peers.py"))
    lines = script["markdown"](json.loads((RESULTS / "law" / "peers.json").read_text()))
    page = (ROOT / "docs" / "law.md").read_text()
    assert len(lines) > 10 and [line for line in lines if line not in page] == []


def test_table_of_intervals_after_a_verdict_is_that_of_the_results() -> None:
    row = runpy.run_path(str(ROOT / "scripts" / "law" / "after_verdict.py"))["row"]
    found = json.loads((RESULTS / "law" / "after_verdict_seed1618.json").read_text())["by_world"]
    page = (ROOT / "docs" / "law.md").read_text()
    assert len(found) == 7 and [world for world, kinds in found.items() if row(world, kinds) not in page] == []


def test_table_of_probes_at_five_shots_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    lines = runpy.run_path(str(SCRIPTS / "learners.py"))["lines"]
    rows = json.loads((RESULTS / "learners" / "learners.json").read_text())
    found = [line for line in lines(rows) if line.startswith("| 5 shots")]
    page = (ROOT / TABLES).read_text()
    assert len(found) == 6 and [line for line in found if line not in page] == []
