"""docs/ as a site: every page has what the Markdown says, links lead somewhere, nothing is fetched from elsewhere."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def place(page: Path) -> str:
    found = page.relative_to(ROOT / "docs").with_suffix(".html")
    return str(found.with_name("index.html") if found.name == "README.html" else found)


def article(site: Path, name: str) -> str:
    return re.search(r"<article.*?</article>", (site / name).read_text(), flags=re.DOTALL)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_has_the_parts_that_the_code_host_shows(page: Path, site: Path) -> None:
    """The twin reads CommonMark, as code hosts do; the site's Markdown wants four spaces below an item of a list."""
    tokens = [token.type for token in MarkdownIt("commonmark").enable("table").parse(page.read_text())]
    expected = {
        "li": tokens.count("list_item_open"),
        "tr": tokens.count("tr_open"),
        "pre": tokens.count("fence") + tokens.count("code_block"),
        "blockquote": tokens.count("blockquote_open"),
    }
    shown = article(site, place(page))
    assert {tag: len(re.findall(rf"<{tag}[ >]", shown)) for tag in expected} == expected


def test_links_out_of_docs_stay_in_the_site(site: Path) -> None:
    home = article(site, "index.html")
    assert 'href="repository/results/index.html"' in home and 'href="repository/CHANGELOG.html"' in home
    assert 'href="repository/src/reptile_scaling/use/labeller.py.html"' in article(site, "adapters.html")
    assert 'href="repository/results/protocol/slots.csv"' in article(site, "protocol.html")
    assert (site / "repository/results/protocol/slots.csv").read_bytes() == (
        ROOT / "results/protocol/slots.csv"
    ).read_bytes()
    # And from there back: README.md lies at the root, its links to docs/ lead to the pages themselves.
    assert 'href="../quickstart.html"' in article(site, "repository/index.html")


def test_every_address_in_the_site_is_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its addresses are absolute
            continue
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not re.match(r"https?:|data:|mailto:", link):
                assert (page.parent / html.unescape(link)).exists(), (page.name, link)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="(\w+:[^"]+)"', text)
        fetched += re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="(\w+:[^"]+)"', text)
        assert fetched == [], page.name


def test_there_is_a_search_an_api_and_a_gallery(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    pages = {entry["location"].partition("#")[0] for entry in found}
    assert {"index.html", "law.html", "api.html", "gallery.html"} <= pages
    assert not any(page.endswith(".py.html") for page in pages), "code would be found before what is said of it"
    anchors = {entry["location"] for entry in found}
    for name in ("api.run_experiment", "laws.fit_law", "use.labeller.open_labeller", "data.episodes.TaskPool"):
        assert f"api.html#reptile_scaling.{name}" in anchors, name
    shown = set(re.findall(r'<img [^>]*src="([^"]+)"', article(site, "gallery.html")))
    figures = [*(ROOT / "docs").rglob("*.png"), *(ROOT / "results").rglob("*.png")]
    assert len(shown) == len(figures) > 0


def test_broken_links_end_the_build(tmp_path: Path) -> None:
    links = ("nowhere.md", "../nothing.json", "README.md#no-such-heading")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text("# Home\n\n" + " ".join(f"[there]({link})" for link in links))
    config = (ROOT / "mkdocs.yml").read_text()
    config = config[: config.index("nav:\n")].replace("scripts/", f"{ROOT}/scripts/").replace("[src]", f"[{ROOT}/src]")
    (tmp_path / "mkdocs.yml").write_text(config)
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1 and "in strict mode" in done.stdout + done.stderr
    warnings = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("WARNING")]
    for link in ("nowhere.md", "../nothing.json", "#no-such-heading"):
        assert any(link in line for line in warnings), (link, warnings)
