"""What a run shows on a terminal or in a log while it works."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from reptile_scaling.analysis.progress import (
    CELL_COLUMNS,
    Statuses,
    baselines_line,
    cell_rows,
    cells_line,
    count_states,
    duration,
    eta_seconds,
    filling_lines,
    read_statuses,
)
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.records import CellStatus

SECONDS_BETWEEN_FRAMES = 1.0
SECONDS_BETWEEN_LINES = 15.0


def progress_line(statuses: Statuses, baselines: str) -> str:
    """The sweep in one line, for logs."""
    counts = count_states(statuses)
    parts = [f"{counts['done']}/{len(statuses)} cells done"]
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if counts["done"] + counts["failed"] == len(statuses):
        return " · ".join([*parts, baselines])
    running = [(cell, s) for cell, s in statuses if s.state == "running"]
    if running:
        cell, status = running[-1]
        parts.append(f"{len(running)} running, at step {status.meta_step}/{status.num_meta_steps}")
        parts.append(f"{cell.name}: {figures(status)}")
    eta = eta_seconds(statuses)
    parts.append(f"ETA {duration(eta)}" if eta is not None else "ETA after the first steps")
    return " · ".join(parts)


def figures(status: CellStatus) -> str:
    """A cell's latest losses, accuracy and speed."""
    parts = []
    if status.support_loss is not None:
        parts.append(f"support loss {status.support_loss:.3f}")
    if status.validation_loss is not None and status.validation_accuracy is not None:
        parts.append(f"validation {status.validation_loss:.3f} / {status.validation_accuracy:.0%}")
    if status.tasks_per_second is not None:
        parts.append(f"{status.tasks_per_second:.1f} tasks/s")
    return ", ".join(parts) or "starting"


def status_table(statuses: Statuses) -> Table:
    """The live table: a row per cell."""
    caption = cells_line(statuses)
    table = Table(title="cells", caption=caption, title_justify="left", caption_justify="left")
    level, *others = CELL_COLUMNS
    table.add_column(level, justify="right", no_wrap=True)
    for column in others:
        table.add_column(column)
    for row in cell_rows(statuses):
        table.add_row(*row)
    return table


@contextmanager
def shown_progress(run: RunDirectory, console: Console) -> Iterator[None]:
    """Shows the sweep while the block runs: a live table on a terminal, a plain line now and then elsewhere."""
    stopped = threading.Event()
    show = _show_table if console.is_terminal else _show_lines
    thread = threading.Thread(target=show, args=(run, console, stopped), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _memory_lines(run: RunDirectory, told: set[str]) -> Iterator[str]:
    """What each worker will need, once; `told` are the workers that have been named."""
    for worker in run.read_workers():
        if worker.name not in told:
            told.add(worker.name)
            yield f"{worker.name}: {worker.memory}"


def _show_table(run: RunDirectory, console: Console, stopped: threading.Event) -> None:
    told: set[str] = set()
    with Live(console=console, refresh_per_second=2) as live:
        while not stopped.wait(SECONDS_BETWEEN_FRAMES):
            for line in _memory_lines(run, told):
                live.console.print(line, soft_wrap=True, markup=False)
            statuses = _statuses_once_begun(run)
            if statuses:
                table = status_table(statuses)
                table.title = "; ".join(["cells", baselines_line(run), *filling_lines(run)])
                live.update(table)


def _show_lines(run: RunDirectory, console: Console, stopped: threading.Event) -> None:
    began, wait = time.monotonic(), SECONDS_BETWEEN_FRAMES
    told: set[str] = set()
    while not stopped.wait(wait):
        for line in _memory_lines(run, told):
            console.print(line, soft_wrap=True, markup=False)
        statuses = _statuses_once_begun(run)
        if statuses:
            line = " · ".join([progress_line(statuses, baselines_line(run)), *filling_lines(run)])
            console.print(f"{duration(time.monotonic() - began):>8}  {line}", soft_wrap=True, highlight=False)
            wait = SECONDS_BETWEEN_LINES


def _statuses_once_begun(run: RunDirectory) -> Statuses:
    return read_statuses(run) if run.is_begun else []
