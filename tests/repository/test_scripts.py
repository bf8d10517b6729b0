"""Scripts say what they want, and what the experiment's ask for is what the program takes."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reptile_scaling.baselines.joint import joint_config
from reptile_scaling.config import load_config, make_config
from reptile_scaling.lab.plan import baseline_names

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*/*.py"))
EXPERIMENT = ROOT / "scripts" / "experiment"
# What a script must be given; the others measure their defaults.
WANTED = {
    "banking77": ["RUNS", "RESULTS"], "early_stopping": ["RUN"], "expectations": ["RUN"], "findings": ["RESULTS"],
    "learners": ["OUT"], "methods": ["OUT"], "part_tables": ["RESULTS", "RUNS"], "pilot": ["OUT", "CONFIG"],
}  # fmt: skip


@pytest.fixture
def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs a script as its command would, in this process, since each import of torch takes seconds."""

    def call(script: Path, *arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        monkeypatch.syspath_prepend(script.parent)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_help_is_the_docstring_with_its_command(script: Path, called) -> None:
    code, shown, _ = called(script, "--help")
    assert code == 0
    assert f"scripts/{script.parent.name}/{script.name}" in shown


@pytest.mark.parametrize("name", WANTED)
def test_script_without_arguments_names_what_is_missing(name: str, called) -> None:
    (script,) = (path for path in SCRIPTS if path.stem == name)
    code, _, said = called(script)
    assert code == 2
    assert said.splitlines()[-1] == (
        f"{script.name}: error: the following arguments are required: {', '.join(WANTED[name])}"
    )


@pytest.mark.parametrize("name", ["early_stopping", "expectations", "findings", "part_tables"])
def test_folder_without_results_is_refused_in_one_sentence(name: str, called, tmp_path: Path) -> None:
    more = [str(tmp_path / "runs")] if name == "part_tables" else []
    code, _, said = called(EXPERIMENT / f"{name}.py", str(tmp_path), *more)
    assert code == 2
    assert str(tmp_path) in said.splitlines()[-1] and ": give the" in said.splitlines()[-1]


def test_methods_are_valid_and_pass_equally_many_utterances() -> None:
    names = runpy.run_path(str(EXPERIMENT / "methods.py"))
    methods, passes_per_visit, meta_steps = names["methods"](), names["passes_per_visit"], names["meta_steps"]
    base = load_config(names["CONFIG"])
    budget = base.num_meta_steps * passes_per_visit(base)
    assert names["REFERENCE"] in methods
    for choices in methods.values():
        assert len(choices) == 3
        for settings in choices:
            config = make_config({**base.model_dump(), **settings})
            passes = passes_per_visit(config)
            assert meta_steps(base, config) * passes == pytest.approx(budget, abs=passes)


def test_parts_of_the_experiment_are_valid_and_joint_training_passes_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXPERIMENT)
    names = runpy.run_path(str(EXPERIMENT / "banking77.py"))
    base = load_config(names["CONFIG"])
    for settings in names["PARTS"].values():
        config = make_config({**base.model_dump(), **settings})
        assert config.baselines is None or set(config.baselines) == set(baseline_names(config))
        if config.algorithm == "joint":
            assert config.num_meta_steps == joint_config(base).num_meta_steps


def test_pilot_tries_values_that_a_config_takes() -> None:
    keys = runpy.run_path(str(EXPERIMENT / "pilot.py"))["KEYS"]
    base = load_config("banking77_smollm2")
    for key, values in keys.items():
        for value in values:
            assert getattr(make_config({**base.model_dump(), key: value}), key) == value
