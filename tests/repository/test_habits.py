"""What is checked before a commit, in `make check` and in CI is one and the same."""

import re
import runpy
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
LAB_BOOK = {"demo", "test", "endurance", "check", "figures", "findings", "coverage", "docs"}


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.+\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert found is not None, target
    return [line.strip() for line in found[1].splitlines()]


def test_precommit_runs_what_make_check_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == recipe("check")
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])


def test_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step.get("run") for step in workflow["jobs"]["check-and-test"]["steps"]]
    assert commands[-1] == ".ci/run"
    assert {"make check", "make test", "make endurance"} <= set((ROOT / ".ci" / "run").read_text().splitlines())


def test_tools_of_the_checks_are_pinned() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "requirements-dev.txt").read_text().split())
    assert {"ruff", "mypy", "codespell", "pre-commit", "pytest-cov"} <= pinned.keys()


def test_help_lists_the_lab_book() -> None:
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in shown.splitlines()}
    assert listed == LAB_BOOK | {"help"}
    assert all(recipe(target) for target in LAB_BOOK)


def test_large_files_are_named_with_their_size(tmp_path: Path) -> None:
    too_large = runpy.run_path(str(ROOT / "scripts" / "repository" / "file_sizes.py"))["too_large"]
    small, large = tmp_path / "small.csv", tmp_path / "checkpoint.bin"
    small.write_bytes(bytes(500_000))
    large.write_bytes(bytes(501_000))
    (sentence,) = too_large([small, large, tmp_path / "deleted"])
    assert str(large) in sentence and "501 kB and the limit is 500" in sentence
