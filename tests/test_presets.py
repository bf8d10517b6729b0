"""Presets: each is a valid experiment that says what it wants, and editors and `run` find it."""

import json
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from reptile_scaling.cli import main
from reptile_scaling.config import Config, config_schema, load_config
from reptile_scaling.presets import FOLDER, SCHEMA, preset_names, preset_to_edit, read_preset


def printed(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that ends well prints, run in this process."""
    monkeypatch.setattr(sys, "argv", ["reptile-scaling", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_valid_by_the_schema_and_by_the_code(name: str) -> None:
    assert isinstance(load_config(name), Config)
    jsonschema.validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()), config_schema())


@pytest.mark.parametrize("name", preset_names())
def test_preset_says_what_it_is_and_wants(name: str) -> None:
    preset = read_preset(name)
    assert len(preset.about) > 20 and preset.time and preset.memory
    assert (FOLDER / f"{name}.yaml").read_text().startswith(f"# yaml-language-server: $schema={SCHEMA}\n")


@pytest.mark.parametrize(
    "settings",
    [{"n_wey": 5}, {"n_way": 1}, {"inner_lr": "fast"}, {"n_tasks_list": [0]}, {"class_split": {"trian": 0.5}}],
)
def test_schema_refuses_what_the_code_refuses(settings: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(settings, config_schema())


@pytest.mark.parametrize("settings", [{"devices": "auto"}, {"seeds": 3}, {"baselines": None}, {"baselines": "no_meta"}])
def test_schema_takes_one_value_for_a_list_as_the_code_does(settings: dict[str, object]) -> None:
    jsonschema.validate(settings, config_schema())


def test_file_to_edit_is_the_preset_and_names_a_schema_that_is_there(tmp_path: Path) -> None:
    text = preset_to_edit("banking77")
    (tmp_path / "my.yaml").write_text(text)
    assert load_config(tmp_path / "my.yaml") == load_config("banking77")
    location = text.splitlines()[0].partition("$schema=")[2]
    assert json.loads(Path(location.removeprefix("file://")).read_text()) == config_schema()


def test_file_comes_before_a_preset_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").write_text("k_inner: 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("demo").k_inner == 3


def test_commands_print_presets_copy_schema_and_version(monkeypatch, capsys) -> None:
    rows = json.loads(printed(["presets", "--json"], monkeypatch, capsys))["presets"]
    assert [row["name"] for row in rows] == preset_names()
    assert "banking77_smollm2" in printed(["presets"], monkeypatch, capsys)
    assert printed(["init", "demo"], monkeypatch, capsys) == preset_to_edit("demo")
    assert json.loads(printed(["schema"], monkeypatch, capsys)) == config_schema()
    assert printed(["--version"], monkeypatch, capsys).startswith("reptile-scaling 0.")
    assert printed(["schema"], monkeypatch, capsys) == (FOLDER / SCHEMA).read_text()
