"""The page of `status --serve`: where a run stands now, its learning curves, and the law of `report.html` so far."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from reptile_scaling.analysis.progress import (
    CELL_COLUMNS,
    Statuses,
    baselines_line,
    cell_rows,
    cells_line,
    filling_lines,
    is_stale,
    read_statuses,
    worker_lines,
)
from reptile_scaling.report.curves import draw_learning
from reptile_scaling.report.page import filled
from reptile_scaling.report.server import Page, Routes
from reptile_scaling.runs.directory import RunDirectory

TEMPLATE = "live.html.jinja"
SECONDS_OF_A_PAGE = 1.0
"""So long it is given to whoever asks, however many ask."""
REPORT_POLICY = "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Part:
    """What the page says of one run."""

    name: str
    """The class split's; empty where there is one run."""
    columns: tuple[str, ...]
    rows: list[tuple[str, float, tuple[str, ...]]]
    """Of each cell its state, its share of the meta-steps and its figures."""
    share: float
    """Of all meta-steps."""
    summary: str
    lines: list[str]
    warnings: list[str]
    learning: Markup
    report: str
    """Address of its `report.html`."""
    report_written: float | None
    """Unix time; None before the first."""


def live_routes(run: RunDirectory) -> Routes:
    """The page at `/` and the reports it leads to."""
    splits = [run.split_run(name) for name in run.config().split_configs]
    reports = {"/report.html": run, **{f"/{split.path.name}/report.html": split for split in splits}}
    return {"/": LivePage(run).read, **{address: _reader(one.report_path) for address, one in reports.items()}}


def _reader(path: Path) -> Callable[[], Page | None]:
    return lambda: Page(path.read_bytes(), REPORT_POLICY) if path.is_file() else None


@dataclass
class LivePage:
    """The page, drawn anew when it is asked for and the last one is a second old."""

    run: RunDirectory
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _page: Page = Page(b"")
    _drawn: float = -SECONDS_OF_A_PAGE
    _curves: "dict[str, tuple[object, Markup]]" = field(default_factory=dict)

    def read(self) -> Page:
        with self._lock:  # matplotlib's style belongs to the process
            if time.monotonic() - self._drawn >= SECONDS_OF_A_PAGE:
                self._page = self._draw()
                self._drawn = time.monotonic()
            return self._page

    def _draw(self) -> Page:
        config = self.run.config()
        splits = config.split_configs
        runs = self.run.split_runs() if splits else {"": self.run}
        parts = [self._part(name, run) for name, run in runs.items()]
        nonce = secrets.token_urlsafe(16)
        content = filled(
            TEMPLATE,
            title=f"{config.algorithm} on {Path(config.model_name).name}, {Path(config.dataset).name}",
            parts=parts,
            waiting=[name for name in splits if name not in runs],
            is_several=bool(splits),
            report_written=_written(self.run.report_path),
            nonce=nonce,
        )
        # Styles of figures stand in their attributes; the one script is known by its nonce.
        policy = f"style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:"
        return Page(content.encode(), policy)

    def _part(self, name: str, run: RunDirectory) -> Part:
        statuses = read_statuses(run)
        n_steps = run.config().num_meta_steps
        shares = [1.0 if s.state == "done" else min(1.0, s.meta_step / n_steps) for _, s in statuses]
        rows = zip([s.state for _, s in statuses], shares, cell_rows(statuses), strict=True)
        working = list(worker_lines(run, statuses))
        has_stale = any(is_stale(worker) for worker in run.read_workers())
        failures = [
            f"{cell.level_name}, seed {cell.seed} failed: {s.reason}" for cell, s in statuses if s.state == "failed"
        ]
        failures += [f"baseline {name} failed: {reason}" for name, reason in run.read_baseline_failures().items()]
        return Part(
            name,
            CELL_COLUMNS,
            list(rows),
            sum(shares) / len(shares),
            cells_line(statuses),
            [baselines_line(run), *filling_lines(run), *(() if has_stale else working)],
            [*(working if has_stale else ()), *failures],
            self._learning(name, run, statuses),
            f"{run.path.name}/report.html" if name else "report.html",
            _written(run.report_path),
        )

    def _learning(self, name: str, run: RunDirectory, statuses: Statuses) -> Markup:
        """The learning curves, drawn anew only where there are new points."""
        points = [run.cell(cell).read_eval_stats() for cell, _ in statuses]
        if not any(points):
            return Markup("")
        if name not in self._curves or self._curves[name][0] != points:
            self._curves[name] = points, Markup(draw_learning(run).inline())
        return self._curves[name][1]


def _written(path: Path) -> float | None:
    return path.stat().st_mtime if path.is_file() else None
