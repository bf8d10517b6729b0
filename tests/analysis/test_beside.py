"""Runs beside each other: a difference that was planted is found, and nothing is paired that is not the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reptile_scaling.analysis.beside import Beside, compare_losses, put_beside, share_test_tasks
from reptile_scaling.errors import InputError
from reptile_scaling.report.beside import beside_tables
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.storage import write_record
from test_cli import refused

COMMITTED = "the committed run"
WORSE_BY, POINTS = 0.1, 2.0


@pytest.fixture(scope="module")
def worse(committed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed run with 0.1 nats more and 2 points less on every test task, and another inner rate."""
    folder = tmp_path_factory.mktemp("runs") / "worse"
    shutil.copytree(committed_run, folder)
    run = RunDirectory(folder)
    experiment = run.experiment()
    write_record(
        folder / "experiment.json",
        replace(experiment, config=experiment.config.model_copy(update={"inner_lr": 8e-3})),
    )
    for result in run.results():
        cell = run.cell(result.cell)
        tasks = [
            replace(task, loss=task.loss + WORSE_BY, accuracy=task.accuracy - POINTS / 100)
            for task in cell.read_test_tasks()
        ]
        loss, accuracy = result.meta_test_loss + WORSE_BY, result.meta_test_accuracy - POINTS / 100
        cell.write_result(replace(result, meta_test_loss=loss, meta_test_accuracy=accuracy), tasks)
    return folder


@pytest.fixture(scope="module")
def found(committed_run: Path, worse: Path) -> Beside:
    return put_beside([committed_run, worse])


def test_only_what_differs_is_shown(found: Beside) -> None:
    assert found.settings == {"inner_lr": (4e-3, 8e-3)}
    assert found.names == ("banking77_smollm2", "worse")


def test_planted_difference_is_found_to_the_digit(found: Beside) -> None:
    """Every task is worse by the same, so that no seed and no task leaves a doubt; the intervals are points."""
    (difference,) = found.differences
    for figures in (difference.losses.difference, difference.losses.low, difference.losses.high):
        np.testing.assert_allclose(figures, WORSE_BY, atol=1e-9)
    assert difference.losses.n_pairs == 24
    assert [gap.points for gap in difference.accuracies] == pytest.approx([-POINTS] * 8)
    assert [gap.half_width for gap in difference.accuracies] == pytest.approx([0.0] * 8, abs=1e-9)


def test_standing_falls_by_what_was_planted(found: Beside) -> None:
    before, after = ({s.name: s.gain for s in of_run} for of_run in found.standings)
    assert before.keys() == after.keys() and len(before) == 7
    assert all(after[name] - before[name] == pytest.approx(-POINTS) for name in before)


def test_levels_are_the_means_of_the_results_table(found: Beside, committed_run: Path) -> None:
    results = [r for r in RunDirectory(committed_run).results() if r.level == 16]
    (level,) = (level for level in found.levels[0] if level.x == 16)
    assert level.n_seeds == len(results) == 3
    assert level.loss == pytest.approx(sum(r.meta_test_loss for r in results) / 3)


def test_tables_leave_as_markdown_latex_and_json(found: Beside) -> None:
    tables = {table.name: table for table in beside_tables(found)}
    assert list(tables) == ["settings", "levels", "laws", "standing", "difference-1"]
    assert "| inner_lr | 0.004 | 0.008 |" in tables["settings"].markdown()
    assert r"inner\_lr & 0.004 & 0.008 \\" in tables["settings"].latex()
    assert "| N = 16 | +0.1 [+0.1, +0.1] | -2.0 ± 0.0 |" in tables["difference-1"].markdown()
    assert "worse minus banking77_smollm2" in tables["difference-1"].caption
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["runs"] == list(found.names)


def test_other_test_tasks_pair_nothing(committed_run: Path, worse: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(worse, other)
    pool = other / "task_pools" / "test.jsonl"
    first, *rest = pool.read_text().splitlines()
    pool.write_text("\n".join([*rest, first]) + "\n")
    assert not share_test_tasks(RunDirectory(committed_run), RunDirectory(other))
    columns = ("n_tasks", "meta_test_loss", None)
    np.testing.assert_allclose(compare_losses(committed_run, other, *columns).difference, WORSE_BY, atol=1e-9)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([COMMITTED], "compare was given 1 folder: give the folders of at least two runs"),
        ([COMMITTED, "nowhere"], "folder 'nowhere' holds no experiment"),
        (
            [COMMITTED, COMMITTED, "--latex", "--json"],
            "--markdown, --latex and --json were asked for together: choose one",
        ),
    ],
)
def test_mistake_is_one_sentence(arguments: list[str], message, committed_run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(committed_run) if a == COMMITTED else a for a in arguments]
    assert message in refused(["compare", *given], monkeypatch, capsys)


def test_sweeps_over_other_axes_are_refused(committed_run: Path, worse: Path, tmp_path: Path) -> None:
    other = tmp_path / "classes"
    shutil.copytree(worse, other)
    run = RunDirectory(other)
    for result in run.results():
        changed = replace(result, axis="n_classes", axis_value=result.n_tasks, x=float(result.n_tasks))
        run.cell(result.cell).write_result(changed, run.cell(result.cell).read_test_tasks())
    with pytest.raises(InputError, match="compare runs over the same axis"):
        compare_losses(committed_run, other, "n_tasks", "meta_test_loss", None)
