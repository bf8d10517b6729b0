"""The wheel in an empty folder: what `pip install` brings is enough, without the checkout."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from reptile_scaling import __version__

pytestmark = pytest.mark.endurance

ROOT = Path(__file__).parents[1]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs the console script of the wheel, built from a copy of the sources, in an empty folder."""
    source, site, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheel_site", "empty"))
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # Isolation would download setuptools; dependencies are those of this environment.
    offline = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", source, source], check=True)
    (wheel,) = source.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", site, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, site / "bin" / "reptile-scaling", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)

    return run


def test_presets_and_a_copy_of_one_are_in_the_wheel(call: Call) -> None:
    assert call("--version").stdout == f"reptile-scaling {__version__}\n"
    names = [preset["name"] for preset in json.loads(call("presets", "--json").stdout)["presets"]]
    assert names == sorted(file.stem for file in (ROOT / "src" / "reptile_scaling" / "presets").glob("*.yaml"))
    assert "site" in call("init", "demo").stdout.splitlines()[0]


def test_preset_runs_to_its_report(call: Call, toy_settings, tmp_path: Path) -> None:
    small = {**toy_settings, "n_tasks_list": [1, 4], "seeds": [0], "baselines": ["nearest_mean"]}
    changed = [
        f"--set={key}={yaml.safe_dump(value, default_flow_style=True, width=1000)}" for key, value in small.items()
    ]
    done = call("run", "demo", "--out", tmp_path / "out", *changed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
