"""What the pages name exists: the files they link to, the keys and commands they show."""

import re
from pathlib import Path

import pytest
import typer.main

from reptile_scaling.cli import app
from reptile_scaling.config import Config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shown_settings_are_keys(page: Path) -> None:
    for key in re.findall(r"--set '?(\w+)=", page.read_text()):
        assert key in Config.model_fields or key == "key", key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shown_commands_and_options_exist(page: Path) -> None:
    commands = typer.main.get_command(app).commands
    for line in re.findall(r"^\.venv/bin/reptile-scaling (.+)$", page.read_text(), flags=re.MULTILINE):
        name, *rest = line.partition("  #")[0].split()
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, line
