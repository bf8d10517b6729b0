"""How every figure looks, and how it leaves: PNG and SVG files, and inline in the page with marks that speak."""

import base64
import html
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from reptile_scaling.storage import no_formula, write_bytes

# Okabe & Ito's colours, safe for the colour-blind.
BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#808080", "#000000"
# In the page a style sheet decides, so that lines show on a dark ground too.
ON_PAGE = {
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    PURPLE: "var(--purple)",
    GREY: "var(--grey)",
    INK: "currentColor",
}
STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "figure.dpi": 160,
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,  # TrueType, which journals ask for, and not Type 3
    "svg.hashsalt": "reptile-scaling",  # the same figure, the same file
    "text.parse_math": False,  # a class may be called $x$
}
HEADLINE_SIZE = 10.5
NO_METADATA: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@contextmanager
def drawing_style() -> Iterator[None]:
    """Every figure is drawn, and rendered, inside this."""
    with plt.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that matplotlib's font lacks shows as boxes in the PNG; in SVG and page it is text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@dataclass
class Chart:
    """A figure, the numbers behind it, and what its marks say when pointed at."""

    name: str
    title: str
    """What it shows, for those who do not see it."""
    figure: Figure
    axes: Axes
    rows: list[dict[str, Any]] = field(default_factory=list)
    _said: dict[str, str] = field(default_factory=dict)

    def say(self, artist: Artist, text: str) -> None:
        """What a mark says when pointed at."""
        mark = f"{self.name}-{len(self._said)}"
        artist.set_gid(mark)
        self._said[mark] = text

    def save(self, png: Path) -> None:
        """Writes the PNG and, beside it, the SVG."""
        for kind in ("png", "svg"):
            write_bytes(png.with_suffix(f".{kind}"), self._rendered(kind))

    def pdf(self) -> bytes:
        """For a paper, with its fonts inside."""
        return self._rendered("pdf")

    def inline(self) -> str:
        """The SVG element, every text in it escaped; colours, and the headline, are left to the page."""
        headline = self.axes.get_title("left")
        self.axes.set_title("", loc="left")
        svg = self._rendered("svg", transparent=True).decode()
        self.axes.set_title(headline, loc="left", fontsize=HEADLINE_SIZE)
        _, _, body = svg[svg.index("<svg") :].partition(">")
        width, height = self.figure.get_size_inches() * 72
        for mark, text in self._said.items():
            speaking = f'<g id="{mark}" class="mark" tabindex="0"><title>{html.escape(text)}</title>'
            body = body.replace(f'<g id="{mark}">', speaking)
        for colour, variable in ON_PAGE.items():
            body = body.replace(f": {colour}", f": {variable}")  # in style attributes
        label = html.escape(self.title, quote=True)
        return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{body}'

    def data_link(self) -> str:
        """A `data:` address with the rows as CSV."""
        table = pd.DataFrame(self.rows).map(lambda cell: no_formula(cell) if isinstance(cell, str) else cell)
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(table.to_csv(index=False).encode()).decode()

    def _rendered(self, kind: str, transparent: bool = False) -> bytes:
        with drawing_style():
            buffer = io.BytesIO()
            metadata = {"svg": NO_METADATA, "pdf": {"CreationDate": None}}.get(kind)
            self.figure.savefig(buffer, format=kind, metadata=metadata, transparent=transparent)
        return buffer.getvalue()


def new_chart(name: str, title: str, width: float = 7.2, height: float = 4.4) -> Chart:
    """An empty chart; sizes in inches. Draw on it inside `drawing_style()`."""
    with drawing_style():
        figure = Figure(figsize=(width, height), layout="constrained")
        return Chart(name, title, figure, figure.subplots())


def level_ticks(axes: Axes, levels: np.ndarray) -> None:
    """A logarithmic x-axis with ticks at the levels themselves, as plain numbers."""
    axes.set_xscale("log")
    axes.set_xticks(levels, [f"{n:g}" for n in levels])
    axes.xaxis.set_minor_locator(NullLocator())


def loss_ticks(axes: Axes, losses: np.ndarray) -> None:
    """A logarithmic y-axis with round losses as plain numbers."""
    axes.set_yscale("log")
    candidates = np.array([m * 10.0**e for e in range(-4, 4) for m in (1, 1.5, 2, 3, 5, 7)])
    inside = candidates[(candidates >= losses.min() * 0.9) & (candidates <= losses.max() * 1.1)]
    axes.set_yticks(inside if len(inside) >= 3 else MaxNLocator(4).tick_values(losses.min(), losses.max()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def label_ends(axes: Axes, ends: list[tuple[float, float, str, str]], gap_points: float = 12.0) -> None:
    """Names lines at their right ends, (x, y, text, colour), pushed apart until no two overlap.

    To be called last: what comes after may move the lines and not the distances.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # a canvas that belongs to no window draws nothing
    pixels = [float(axes.transData.transform((x, y))[1]) for x, y, _, _ in ends]
    gap = gap_points * figure.dpi / 72
    floor = -np.inf
    for i in np.argsort(pixels):
        x, y, text, colour = ends[i]
        place = max(pixels[i], floor)
        floor = place + gap
        shift = (place - pixels[i]) * 72 / figure.dpi
        axes.annotate(
            text, (x, y), xytext=(7, shift), textcoords="offset points", va="center", color=colour,
            fontsize=9.5, annotation_clip=False,
        )  # fmt: skip
