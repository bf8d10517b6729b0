"""What README.md and docs/findings.md claim of Banking77 is what the committed tables say, computed anew."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from reptile_scaling.api import load_experiment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
SCRIPTS = ROOT / "scripts" / "experiment"


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
    script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """The lines a script of the findings prints for a folder of results."""
    monkeypatch.setattr(sys, "argv", [script, str(folder)])
    monkeypatch.syspath_prepend(SCRIPTS)
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    return [line for line in capsys.readouterr().out.splitlines() if line]


def unwrapped(page: str) -> str:
    """A page without its line breaks: a sentence may be wrapped."""
    return " ".join((ROOT / page).read_text().split())


def test_findings_are_recomputed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = unwrapped("docs/findings.md")
    lines = printed("findings.py", RESULTS, monkeypatch, capsys)
    assert len(lines) > 60
    for line in lines:
        assert " ".join(line.split()) in page


def test_early_stopping_is_recomputed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = unwrapped("docs/findings.md")
    verdicts = printed("early_stopping.py", RESULTS / "banking77_smollm2", monkeypatch, capsys)[-2:]
    assert all(verdict in page for verdict in verdicts)


def test_expectations_are_recomputed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed("expectations.py", RESULTS / "banking77_smollm2", monkeypatch, capsys)
    assert len(lines) > 8
    page = unwrapped("README.md")
    for line in lines:
        assert line in page


def test_readme_quotes_the_tables(runs: Path) -> None:
    page, record = unwrapped("README.md"), load_experiment(RESULTS / "banking77_smollm2")
    assert record.sentence in page
    by_level = record.results.groupby("n_tasks").meta_test_accuracy.mean()
    assert f"from {100 * by_level.iloc[0]:.1f} % to {100 * by_level.iloc[-1]:.1f} %" in page
    for name in ("no_meta", "no_meta_tuned", "logistic_regression", "nearest_mean"):
        assert f"{100 * record.baselines.accuracy[name]:.1f} %" in page
    short = load_experiment(runs / "banking77_smollm2_short")
    assert short.law.verdict.form == "not_resolved"
    assert "what is left is not resolved from a constant" in page
