"""What the site has beside docs/: the API, a gallery of figures, and each file of the repository that a page links to.

mkdocs calls these functions (`hooks` in mkdocs.yml). A link such as `../results/README.md` works in the repository as
it stands; here the file it leads to becomes a page of the site, or a file beside it, and the link is turned there.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS, OUTSIDE = "docs", "repository"
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
IMAGE = re.compile(r"!\[([^\]]+)\]\(([^)\s]+)\)")
SHOWN_AS_CODE = {".py": "python", ".yaml": "yaml"}
API = {
    "Experiments": ("reptile_scaling.api",),
    "Laws": ("reptile_scaling.laws",),
    "Adapters": ("reptile_scaling.use.labeller",),
    "Data": ("reptile_scaling.data.dataset", "reptile_scaling.data.readers", "reptile_scaling.data.episodes"),
    "Reptile": ("reptile_scaling.learning.algorithms.reptile", "reptile_scaling.learning.algorithms.algorithm"),
    "Run folders": ("reptile_scaling.runs.directory", "reptile_scaling.runs.records"),
}
FIGURES = {
    "scaling_law_plot": "Meta-test loss over meta-training tasks, with the law",
    "baseline_comparison": "Accuracy beside the baselines on the same test tasks",
    "accuracy": "Query accuracy on the test tasks over meta-training tasks",
    "learning": "Validation loss of every cell over meta-steps",
    "adaptation": "Query accuracy on test tasks over inner steps",
    "difficulty": "Recall of the hardest test classes",
}
"""What the figures of a run's folder show, where no page says it."""

_place_of: dict[str, str] = {}
"""Files of the repository → their place in the site, of the build in progress."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here, then all that is linked to, page after page."""
    _place_of.clear()
    _place_of.update({f"{DOCS}/{file.src_uri}": file.src_uri for file in files})
    for name, content in (("api.md", api_page()), ("gallery.md", gallery_page())):
        _place_of[f"{DOCS}/{name}"] = name
        files.append(File.generated(config, name, content=content))
    pages = [(f"{DOCS}/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    for path, markdown in pages:  # grows while it is read
        for target in linked(path, markdown):
            if target in _place_of or not (ROOT / target).exists():
                continue
            file = outside_file(target, config)
            _place_of[target] = file.src_uri
            files.append(file)
            if file.is_documentation_page():
                pages.append((own_path(target), file.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns every link to a file of the repository to its place in the site."""
    here = page.file.src_uri
    path = next(own_path(path) for path, place in _place_of.items() if place == here)

    def turned(link: re.Match[str]) -> str:
        place = _place_of.get(joined(path, link[1]))
        if place is None:
            return link[0]
        return posixpath.relpath(place, posixpath.dirname(here)) + (link[2] or "")

    return LINK.sub(turned, markdown)


def outside_file(path: str, config: MkDocsConfig) -> File:
    """A file or folder outside docs/ as the site has it: Markdown and code as pages, the rest as it is."""
    source, place = ROOT / path, f"{OUTSIDE}/{path}"
    if source.is_dir():
        readme = source / "README.md"
        content = readme.read_text() if readme.is_file() else folder_page(path)
        return File.generated(config, f"{place}/README.md", content=content)
    if source.suffix == ".md":
        return File.generated(config, place, content=source.read_text())
    if language := SHOWN_AS_CODE.get(source.suffix):
        code = f"---\nsearch: {{exclude: true}}\n---\n# `{path}`\n\n````{language}\n{source.read_text()}````\n"
        return File.generated(config, f"{place}.md", content=code)
    return File.generated(config, place, abs_src_path=str(source))


def folder_page(path: str) -> str:
    """A list of what a folder without README holds."""
    names = sorted(entry.name for entry in (ROOT / path).iterdir() if not entry.name.startswith("."))
    return f"# `{path}`\n\n" + "".join(f"- [{name}]({name})\n" for name in names)


def own_path(path: str) -> str:
    """Where the links of a page start from: a folder's page lies in it."""
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def linked(path: str, markdown: str) -> list[str]:
    """The files that a page links to, as paths from the repository's root."""
    return [joined(path, link[1]) for link in LINK.finditer(markdown)]


def joined(path: str, link: str) -> str:
    """`../results` as `docs/law.md` means it: `results`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def api_page() -> str:
    """A heading for each of API, and under it what mkdocstrings finds."""
    parts = [f"## {title}\n\n" + "\n".join(f"::: {module}\n" for module in modules) for title, modules in API.items()]
    return "# Python API\n\n" + "\n".join(parts)


def gallery_page() -> str:
    """Every figure that is committed, with what the pages say of it and where it comes from."""
    said = {
        joined(str(page.relative_to(ROOT)), link): alt
        for page in (*sorted((ROOT / DOCS).rglob("*.md")), ROOT / "README.md")
        for alt, link in IMAGE.findall(page.read_text())
    }
    found = [path for folder in (DOCS, "results") for path in sorted((ROOT / folder).rglob("*.png"))]
    parts = ["# Figures\n"]
    for path in (str(figure.relative_to(ROOT)) for figure in found):
        title = said.get(path) or FIGURES[Path(path).stem]
        parts.append(f"## {title}\n\n`{path}`\n\n![{title}]({posixpath.relpath(path, DOCS)})\n")
    return "\n".join(parts)
