"""Tables and figures for a paper: what is printed is what the results say, and it says of how many."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from reptile_scaling.report.paper import facts_of_run, results_table, write_paper
from reptile_scaling.report.plain_table import PlainTable, for_latex
from reptile_scaling.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def paper(committed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "run"
    shutil.copytree(committed_run, folder)
    run = RunDirectory(folder)
    written = write_paper(run)
    assert all(file.stat().st_size > 0 for file in written)
    return run.paper_folder


def test_results_are_the_means_over_seeds(committed_run: Path) -> None:
    run = RunDirectory(committed_run)
    table = results_table(run)
    losses = [r.meta_test_loss for r in run.results() if r.n_tasks == 1000]
    assert table.rows[-1][:2] == ("N = 1000", "3")
    assert table.rows[-1][2].startswith(f"{np.mean(losses):.3f} ± ")


def test_every_caption_says_cells_seeds_tasks_and_interval(paper: Path, committed_run: Path) -> None:
    facts = facts_of_run(RunDirectory(committed_run))
    assert "24 cells (levels: 8, seeds: 3), 200 test tasks" in facts
    captions = (paper / "figures.md").read_text().strip().split("\n\n")
    assert len(captions) == 8
    for text in [*captions, *((paper / f"{name}.md").read_text() for name in ("results", "standing", "laws"))]:
        assert facts in text and "interval" in text


def test_figures_are_pdfs_and_latex_names_each(paper: Path) -> None:
    pdfs = sorted(file.name for file in paper.glob("*.pdf"))
    assert "scaling.pdf" in pdfs and len(pdfs) == 8
    assert all((paper / name).read_bytes().startswith(b"%PDF") for name in pdfs)
    assert all(f"{{{name}}}" in (paper / "figures.tex").read_text() for name in pdfs)


def test_latex_is_escaped_and_balanced(paper: Path) -> None:
    assert for_latex("50% of N_tasks & β ± 1") == r"50\% of N\_tasks \& $\beta$ $\pm$ 1"
    for file in paper.glob("*.tex"):
        text = file.read_text()
        assert text.count("{") == text.count("}")
        assert text.isascii()


def test_markdown_keeps_a_bar_inside_its_column() -> None:
    table = PlainTable("t", "Caption.", ("a", "b"), (("x|y", "1"),))
    assert table.markdown() == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n\n*Caption.*\n"
    assert r"x|y & 1 \\" in table.latex()
