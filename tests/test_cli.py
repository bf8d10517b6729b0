"""The command line as a user meets it: a whole small sweep, resuming, and one sentence for every mistake."""

import json
import sys
from pathlib import Path

import pytest
import typer.main
import yaml
from staged.processes import call

from reptile_scaling.cli import app, main
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

# A new option is a reviewed line here (a policy of torchtitan's).
OPTIONS = {
    "adapt": {"--adapter", "--support", "--out", "--evaluate", "--steps", "--lr", "--model"},
    "bench": {"--data-dir", "--dataset", "--full", "--json", "--model", "--sweep"},
    "check": {"--json"},
    "compare": {"--markdown", "--latex", "--json"},
    "data": {"--data-dir", "--n-way", "--class-split"},
    "export": {"--adapter", "--out", "--model"},
    "fit": {"--x", "--y", "--group", "--transform", "--at", "--target", "--plan", "--versus", "--json"},
    "init": set(),
    "predict": {"--adapter", "--input", "--out", "--evaluate", "--abstain-below", "--model", "--json"},
    "presets": {"--json"},
    "push": {"--adapter", "--to", "--private"},
    "report": {"--tables"},
    "run": {"--out", "--set", "--executor", "--dry-run"},
    "schema": set(),
    "status": {"--json", "--serve", "--host", "--port"},
}


def test_commands_and_options_are_these_and_no_others() -> None:
    door = typer.main.get_command(app)
    found = {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for name, command in door.commands.items()
    }
    assert found == OPTIONS
    assert {option for parameter in door.params for option in parameter.opts} >= {"--version", "--install-completion"}


def refused(arguments: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on standard error of a command that ends with exit code 2, run in this process."""
    monkeypatch.setattr(sys, "argv", ["reptile-scaling", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().err
    assert ended.value.code == 2, printed
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    return printed


@pytest.fixture(scope="module")
def config_file(toy_settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "toy.yaml"
    path.write_text(yaml.safe_dump({**toy_settings, "curve_steps": [1, 3], "baselines": None}))
    return path


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("run") / "out"
    done = call("run", config_file, "--out", out)
    assert done.returncode == 0, done.stderr + done.stdout
    return out, done.stdout


def test_run_writes_every_file_of_the_contract(finished) -> None:
    out, printed = finished
    for name in (
        "scaling_law_results.csv", "power_law_fit.json", "scaling_law_plot.png", "baseline_comparison.png",
        "summary_report.json", "report.html", "experiment.json", "task_pools/test.jsonl",
    ):  # fmt: skip
        assert (out / name).stat().st_size > 0, name
    cell = out / "ntasks_2_seed_0"
    for name in (
        "config.json", "ntasks_2_seed_0_train_stats.csv", "ntasks_2_seed_0_eval_stats.csv", "final_result.json",
        "status.json", "checkpoint.safetensors", "test_tasks.csv", "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors", "adapter/head.safetensors", "adapter/README.md",
    ):  # fmt: skip
        assert (cell / name).stat().st_size > 0, name
    assert (out / "scaling_law_plot.png").read_bytes().startswith(b"\x89PNG")
    assert "ETA" in printed or "cells done" in printed
    assert "scaling_law_plot.png" in printed


def test_fit_of_a_run_is_the_fit_of_its_files(finished) -> None:
    out, _ = finished
    law = json.loads(call("fit", out, "--json").stdout)
    assert {"n_points", "n_levels", "forms", "verdict", "warnings"} <= law.keys()
    assert (law["n_points"], law["n_levels"]) == (10, 5)
    assert {"power", "power_floor", "log_linear", "constant"} <= law["forms"].keys()
    assert {"form", "scaling_detected", "alternatives", "reasons"} <= law["verdict"].keys()
    columns = ("--x", "n_tasks", "--y", "meta_test_loss", "--group", "seed")
    table = json.loads(call("fit", out / "scaling_law_results.csv", *columns, "--json").stdout)
    assert table["forms"]["power"]["beta"] == pytest.approx(law["forms"]["power"]["beta"], rel=1e-6)


def test_fit_answers_what_it_is_asked(finished) -> None:
    out, _ = finished
    asked = call("fit", out, "--at", "32", "--target", "0.9", "--plan", "10", "--versus", out, "--json")
    answers = json.loads(asked.stdout)
    assert answers["predictions"]["points"][0]["x"] == 32
    assert {"target", "x", "ci95"} <= answers["tasks_needed"].keys()
    assert sum(answers["plans"][0]["new_seeds"]) <= 10
    # A run against itself differs by nothing.
    assert all(level["difference"] == 0 for level in answers["comparison"]["levels"])
    words = call("fit", out, "--at", "32", "--target", "0.9", "--plan", "10", "--versus", out).stdout
    assert "N = 32" in words and "plan " in words and "second minus first" in words


def test_second_run_touches_nothing_that_is_done(finished, config_file) -> None:
    out, _ = finished
    results = {p: p.stat().st_mtime_ns for p in out.rglob("final_result.json")}
    again = call("run", config_file, "--out", out)
    assert again.returncode == 0, again.stderr
    assert "10 cells, 10 done" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in out.rglob("final_result.json")} == results


def test_status_counts_the_cells(finished) -> None:
    out, _ = finished
    status = json.loads(call("status", out, "--json").stdout)
    assert (status["done"], status["failed"], status["pending"]) == (10, 0, 0)
    assert len(status["cells"]) == 10
    assert "done" in call("status", out).stdout


def test_report_draws_again(finished) -> None:
    out, _ = finished
    (out / "report.html").unlink()
    assert call("report", out).returncode == 0
    page = (out / "report.html").read_text()
    assert "<svg" in page and "http://" not in page and 'src="https' not in page


def test_diverging_cells_give_exit_3_and_a_reason(config_file, tmp_path) -> None:
    ruinous = ["--set", "inner_lr=1000", "--set", "inner_optimizer=sgd", "--set", "lora_alpha=1e30"]
    done = call("run", config_file, "--out", tmp_path / "out", *ruinous)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "stopped being finite" in done.stdout
    assert "Traceback" not in done.stderr
    assert RunDirectory(tmp_path / "out").cell(Cell(2, 0)).read_status().state == "failed"


def test_data_says_what_a_set_holds(toy_csv) -> None:
    printed = call("data", toy_csv).stdout
    assert "12 classes" in printed and "792" in printed  # C(12, 5) five-way class sets
    assert "home_assistant" in call("data").stdout


def test_dry_run_writes_nothing(config_file, tmp_path) -> None:
    done = call("run", config_file, "--out", tmp_path / "out", "--dry-run")
    assert done.returncode == 0
    assert "10 cells" in done.stdout
    assert "time: about" in done.stdout and "memory: program" in done.stdout
    assert not (tmp_path / "out").exists()


def test_dry_run_without_the_model_says_why_there_is_no_estimate(config_file, tmp_path) -> None:
    done = call("run", config_file, "--out", tmp_path / "out", "--dry-run", "--set", "model_name=nobody/nothing")
    assert done.returncode == 0
    assert "no estimate of time and memory: model 'nobody/nothing' cannot be loaded" in done.stdout


MISTAKES = {
    "unknown key": (["--set", "n_wey=3"], "unknown key 'n_wey': did you mean 'n_way'?"),
    "not key=value": (["--set", "n_way"], "--set 'n_way' is not key=value"),
    "impossible episode": (["--set", "k_query=40"], "has 12 examples: lower k_query to 10 or less"),
    "too many ways": (["--set", "n_way=5"], "n_way = 5, but the validation part of"),
    "absent device": (["--set", "devices=cuda:7"], "device 'cuda:7' is not on this machine"),
    "absent data": (["--set", "dataset=nowhere.csv"], "'nowhere.csv' does not exist"),
    "unknown data set": (["--set", "dataset=bancing77"], "dataset 'bancing77' is unknown"),
    "absent model folder": (["--set", "model_name=/no/such/model"], "model_name '/no/such/model' does not exist"),
    "absent GGUF file": (["--set", "model_name=nowhere.gguf"], "model_name 'nowhere.gguf' is no file"),
    "model not on the Hub": (["--set", "model_name=nobody/nothing"], "model 'nobody/nothing' cannot be loaded"),
    "8 bit without CUDA": (["--set", "load_in_8bit=true"], "load_in_8bit needs a CUDA device, and device is 'cpu'"),
    "4 bit without CUDA": (["--set", "load_in_4bit=true"], "load_in_4bit needs a CUDA device, and device is 'cpu'"),
    "8 and 4 bit": (
        ["--set", "load_in_4bit=true", "--set", "load_in_8bit=true"],
        "both true: set one of them to false",
    ),
    "empty grid": (["--set", "n_tasks_list=[]"], "n_tasks_list = [] leaves nothing to run"),
    "NaN rate": (["--set", "inner_lr=.nan"], "inner_lr = nan cannot work"),
    "published split without its lists": (["--set", "class_split=protaugment-01"], "but data_dir is not set: set"),
    "too many layers": (["--set", "lora_layers=top-9"], "the model has 3 layers: use 'all', or top-3"),
    "unknown algorithm": (["--set", "algorithm=reptil"], "algorithm = 'reptil' is unknown: use reptile"),
    "unknown head": (["--set", "head=linear"], "head = 'linear' is unknown: use classifier or zero or prototype"),
    "unknown executor": (["--executor", "pbs"], "executor = 'pbs' is unknown: use local or ray or slurm"),
}


@pytest.mark.parametrize("arguments, message", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_one_sentence_and_exit_2(
    arguments: list[str], message: str, config_file, tmp_path, monkeypatch, capsys
) -> None:
    assert message in refused(["run", config_file, "--out", tmp_path / "out", *arguments], monkeypatch, capsys)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
        (["status", "nowhere"], "folder 'nowhere' holds no experiment"),
        (["report", "nowhere"], "folder 'nowhere' holds no experiment"),
        (["fit", "nowhere.csv", "--x", "n", "--y", "loss"], "'nowhere.csv' does not exist"),
        (["data", "nothing"], "dataset 'nothing' is unknown"),
    ],
)
def test_mistake_outside_run_is_one_sentence_too(
    arguments: list[str], message: str, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(arguments, monkeypatch, capsys)


def test_fit_names_a_missing_column(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "t.csv").write_text("n,loss\n1,2\n")
    printed = refused(["fit", tmp_path / "t.csv", "--x", "tasks", "--y", "loss"], monkeypatch, capsys)
    assert "tasks" in printed and "n, loss" in printed


def test_installed_command_exits_2_without_a_traceback(tmp_path) -> None:
    done = call("run", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: config file 'nowhere.yaml' does not exist, nor is it a preset (banking77, ")
    assert done.stderr.endswith("): check the path, or start with reptile-scaling init demo\n")
