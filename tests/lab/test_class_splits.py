"""Several class splits: each run is that of its split alone, and together they are replications."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from reptile_scaling import interruption
from reptile_scaling.analysis.beside import put_beside
from reptile_scaling.analysis.class_splits import pooled_gain
from reptile_scaling.analysis.law_of_run import losses_of_run
from reptile_scaling.analysis.paired import Gain
from reptile_scaling.analysis.standing import standings
from reptile_scaling.api import load_experiment, run_experiment
from reptile_scaling.cli import app, run_config
from reptile_scaling.config import make_config
from reptile_scaling.errors import InputError
from reptile_scaling.learning import cohort
from reptile_scaling.runs.directory import RunDirectory

pytestmark = pytest.mark.endurance

SPLITS = [{"train": 0.5, "validation": 0.25, "seed": seed} for seed in (0, 1)]
NAMES = ["0.5-0.25-seed-0", "0.5-0.25-seed-1"]


@pytest.fixture(scope="module")
def settings(toy_settings) -> dict[str, object]:
    return {
        **toy_settings, "n_tasks_list": [2, 8], "baselines": ["no_meta"], "curve_steps": [], "class_splits": SPLITS,
    }  # fmt: skip


@pytest.fixture(scope="module")
def pooled(settings, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("splits") / "out"
    assert run_config(make_config(settings), folder) == 0
    return RunDirectory(folder)


def losses(folder: Path) -> dict[str, float]:
    """Loss of every cell below a folder, by the cell's path."""
    files = sorted(folder.rglob("final_result.json"))
    return {str(f.parent.relative_to(folder)): json.loads(f.read_text())["meta_test_loss"] for f in files}


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    app(list(map(str, arguments)), standalone_mode=False)
    return capsys.readouterr().out


def test_each_split_is_the_run_of_that_split_alone(pooled, settings, tmp_path) -> None:
    alone = {**settings, "class_splits": None, "class_split": SPLITS[1]}
    assert run_config(make_config(alone), tmp_path / "alone") == 0
    own = pooled.split_run(NAMES[1])
    assert losses(own.path) == pytest.approx(losses(tmp_path / "alone"), abs=1e-6)
    assert own.config() == RunDirectory(tmp_path / "alone").config()
    assert own.report_path.exists() and own.read_baselines().keys() == {"no_meta"}


def test_splits_differ_in_their_classes(pooled) -> None:
    tested = [{name for task in run.read_pool("test") for name in task.classes} for run in pooled.split_runs().values()]
    assert tested[0] != tested[1]


def test_stopped_in_the_second_split_and_resumed_equals_uninterrupted(pooled, settings, tmp_path, monkeypatch) -> None:
    real, n_steps = cohort.meta_step, 0

    def stopping(*args, **kwargs):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 6:  # of 4 meta-steps a split: all four cells are one cohort
            interruption.request_stop()
        return real(*args, **kwargs)

    monkeypatch.setattr(cohort, "meta_step", stopping)
    config, folder = make_config(settings), tmp_path / "out"
    assert run_config(config, folder) == 130
    assert len(RunDirectory(folder).pooled_results()) == 4  # of the first split
    monkeypatch.setattr(cohort, "meta_step", real)
    assert run_config(config, folder) == 0
    assert losses(folder) == pytest.approx(losses(pooled.path), abs=1e-6)


def test_pooled_table_has_every_cell_once(pooled) -> None:
    table = pd.read_csv(pooled.path / "scaling_law_results.csv")
    cells = set(table[["class_split", "n_tasks", "seed"]].itertuples(index=False, name=None))
    assert cells == {(name, n, seed) for name in NAMES for n in (2, 8) for seed in (0, 1)}
    assert len(table) == 8
    for name, run in pooled.split_runs().items():
        own = table[table.class_split == name].meta_test_loss
        assert own.tolist() == pytest.approx([r.meta_test_loss for r in run.results()])


def test_replications_of_the_law_are_the_splits(pooled) -> None:
    table = losses_of_run(pooled)
    assert table.x.tolist() == [2, 2, 8, 8] and table.group == (*NAMES, *NAMES)
    runs = [pooled.split_run(name).results() for name in NAMES]
    means = [np.mean([r.meta_test_loss for r in run if r.n_tasks == n]) for n in (2, 8) for run in runs]
    assert table.loss.tolist() == pytest.approx(means)
    assert table.task_losses is None  # other tasks in each split
    law = json.loads((pooled.path / "power_law_fit.json").read_text())
    assert law["n_points"] == 4 and law["n_levels"] == 2 and law["n_seeds"] == 2


def test_standing_is_the_mean_of_the_splits_own(pooled) -> None:
    summary = json.loads((pooled.path / "summary_report.json").read_text())
    (found,) = summary["standing"]
    own = [standings(run)[0] for run in pooled.split_runs().values()]
    assert found["name"] == "no_meta"
    assert found["gain"] == pytest.approx((own[0].gain + own[1].gain) / 2)
    assert found["error"] == pytest.approx(((own[0].error ** 2 + own[1].error ** 2) / 2) ** 0.5)
    assert f"{found['gain']:+.1f} ± {found['error']:.1f}" in summary["standing_sentence"]
    assert "Over 2 class splits" in summary["standing_sentence"] and "within splits" in summary["standing_sentence"]


def test_from_three_splits_on_the_interval_is_over_splits() -> None:
    gain = pooled_gain([Gain(1.0, 9.0), Gain(2.0, 9.0), Gain(6.0, 9.0)])
    # mean 3; squares 4 + 1 + 9 = 14, variance 7, of the mean 7 / 3
    assert gain.points == pytest.approx(3.0)
    assert gain.half_width == pytest.approx(student.ppf(0.975, 2) * (7 / 3) ** 0.5)


def test_page_links_every_split_and_has_the_standing(pooled) -> None:
    page = pooled.report_path.read_text()
    assert all(f'href="split_{name}/report.html"' in page for name in NAMES)
    assert "Over 2 class splits" in page and "<svg" in page


def test_python_reads_the_pooled_folder(pooled) -> None:
    record = load_experiment(pooled.path)
    assert len(record.results) == 8 and record.results.columns[0] == "class_split"
    assert record.law.as_json() == json.loads((pooled.path / "power_law_fit.json").read_text())
    assert record.standing.startswith("Over 2 class splits")
    assert record.baselines.class_split.tolist() == NAMES and set(record.baselines.index) == {"no_meta"}
    assert set(record.learning_curves.class_split) == set(NAMES)
    assert record.failures == {}


def test_python_goes_on_with_a_folder_and_adds_a_split(pooled, settings, tmp_path) -> None:
    folder = tmp_path / "out"
    smaller = {**settings, "num_meta_steps": 1, "seeds": [0], "baselines": []}
    run_experiment(smaller, folder)
    third = {"train": 0.5, "validation": 0.25, "seed": 2}
    grown = run_experiment({**smaller, "class_splits": [*SPLITS, third]}, folder)
    assert len(grown.results) == 6 and grown.standing == ""


def test_fit_and_status_take_the_pooled_folder(pooled, capsys) -> None:
    law = json.loads(printed(capsys, "fit", pooled.path, "--json"))
    assert law["n_points"] == 4
    told = printed(capsys, "status", pooled.path)
    assert all(f"Class split {name}" in told for name in NAMES)
    found = json.loads(printed(capsys, "status", pooled.path, "--json"))
    assert [split["done"] for split in found["class_splits"].values()] == [4, 4] and found["not_begun"] == []


def test_report_draws_the_page_again(pooled, capsys, tmp_path) -> None:
    folder = shutil.copytree(pooled.path, tmp_path / "out")
    (folder / "report.html").unlink()
    with pytest.raises(SystemExit) as ended:
        printed(capsys, "report", folder)
    assert ended.value.code == 0 and (folder / "report.html").read_text() == pooled.report_path.read_text()
    with pytest.raises(InputError, match="--tables is for one run, .* give a split's folder in it"):
        printed(capsys, "report", folder, "--tables")


def test_compare_asks_for_the_splits_own_folders(pooled) -> None:
    with pytest.raises(InputError, match="holds several class splits: compare the split_… folders in it"):
        put_beside([pooled.path, pooled.path])


def test_dry_run_adds_the_costs_up_and_writes_nothing(settings, tmp_path, capsys) -> None:
    assert run_config(make_config(settings), tmp_path / "out", dry_run=True) == 0
    assert "2 class splits in turn: about" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_unknown_split_is_refused_before_any_begins(settings, tmp_path, capsys) -> None:
    (tmp_path / "splits").mkdir()
    config = make_config({**settings, "class_splits": [SPLITS[0], "protaugment-07"], "data_dir": str(tmp_path)})
    with pytest.raises(InputError, match="class split protaugment-07: class_split = 'protaugment-07' needs .* use"):
        run_config(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([SPLITS[0]], "class_splits has 1 split: name two or more, or set class_split"),
        (["01", "02", "01"], "class_splits names 01 twice: list each split once"),
        ([SPLITS[0], {"trian": 0.5}], "unknown key 'class_splits.trian': did you mean 'train'"),
    ],
)
def test_splits_that_cannot_work_are_refused(value, complaint) -> None:
    with pytest.raises(InputError, match=complaint):
        make_config({"class_splits": value})


@pytest.mark.parametrize("first_is_pooled", [True, False])
def test_one_split_and_several_are_different_experiments(first_is_pooled, settings, tmp_path) -> None:
    one, several = make_config({**settings, "class_splits": None}), make_config(settings)
    first, second = (several, one) if first_is_pooled else (one, several)
    RunDirectory(tmp_path).begin(first, "data", {})
    with pytest.raises(InputError, match="with class_splits = .* choose another --out, or set class_splits back"):
        RunDirectory(tmp_path).begin(second, "data", {})
