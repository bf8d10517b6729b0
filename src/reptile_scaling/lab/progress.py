"""What a run shows while it works: read from the run directory alone, so any machine that sees it can show it."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import BaselineStatus, CellStatus, Worker

SECONDS_BETWEEN_FRAMES = 1.0
SECONDS_BETWEEN_LINES = 15.0
SECONDS_UNTIL_STALE = 30.0
SECONDS_OF_NOW = 3.0
"""A cache that was filled within these is being filled."""

Statuses = list[tuple[Cell, CellStatus]]


def read_statuses(run: RunDirectory) -> Statuses:
    """Every cell of the grid with its status."""
    return [(cell, run.cell(cell).read_status()) for cell in run.cells()]


def count_states(statuses: Statuses) -> dict[str, int]:
    """How many cells are done, running, failed and pending."""
    states = [status.state for _, status in statuses]
    return {state: states.count(state) for state in ("done", "running", "failed", "pending")}


def eta_seconds(statuses: Statuses) -> float | None:
    """Time left at the measured time per meta-step; None before the first step has been timed.

    `wall_seconds` is a cell's share of its cohort's time, so the shares that are left add up, per working device.
    """
    timed = [s for _, s in statuses if s.meta_step and s.wall_seconds]
    if not timed:
        return None
    seconds_per_step = sum(s.wall_seconds for s in timed) / sum(s.meta_step for s in timed)
    running = [s for _, s in statuses if s.state == "running"]
    n_steps = max(s.num_meta_steps for _, s in statuses)
    n_left = sum(n_steps - s.meta_step for _, s in statuses if s.state in ("running", "pending"))
    return n_left * seconds_per_step / max(1, len({s.device for s in running}))


def baselines_line(run: RunDirectory) -> str:
    """How many baselines are done, how far those are that are being measured, and which are left."""
    done, left, failed = run.read_baselines(), run.read_baselines_left(), run.read_baseline_failures()
    line = f"baselines {len(done)}/{len({*done, *left, *failed})} done"
    line += "".join(f", {_how_far(status)}" for status in left.values() if status.of)
    waiting = [name for name, status in left.items() if not status.of]
    return line + (f", left: {', '.join(waiting)}" if waiting and (done or len(waiting) < len(left)) else "")


def _how_far(status: BaselineStatus) -> str:
    eta = f", ETA {duration(status.seconds_left)}" if status.seconds_left is not None else ""
    return f"{status.name} at {status.done / status.of:.0%} after {duration(status.seconds)}{eta}"


def filling_lines(run: RunDirectory) -> Iterator[str]:
    """Of each worker that is filling its cache of shared activations now: how far, how fast, how long at most."""
    for filling in run.read_fillings():
        if time.time() - filling.updated < SECONDS_OF_NOW and filling.seconds:
            left = max(0, filling.at_most - filling.utterances) * filling.seconds / filling.utterances
            yield (
                f"sharing activations: {filling.utterances} utterances of {filling.at_most} at most, "
                f"{filling.tokens / filling.seconds:.0f} tokens/s, ETA {duration(left)} at most"
            )


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


def duration(seconds: float) -> str:
    """`45 s`, `7 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def status_table(statuses: Statuses) -> Table:
    """The live table: a row per cell."""
    eta = eta_seconds(statuses)
    counts = ", ".join(f"{count} {state}" for state, count in count_states(statuses).items() if count)
    caption = f"{counts} · ETA {duration(eta) if eta is not None else 'after the first steps'}"
    table = Table(title="cells", caption=caption, title_justify="left", caption_justify="left")
    table.add_column("level", justify="right", no_wrap=True)
    columns = ("seed", "state", "device", "step", "support loss", "validation loss / acc.", "tasks/s", "ETA", "note")
    for column in columns:
        table.add_column(column)
    for cell, status in statuses:
        at_work = sum(s.state == "running" and s.device == status.device for _, s in statuses)
        table.add_row(cell.level_name, str(cell.seed), *_row(status, at_work))
    return table


def _row(status: CellStatus, cells_at_work: int) -> list[str]:
    if status.state == "pending" and not status.meta_step:
        return ["pending", "", "", "", "", "", "", ""]
    validation = ""
    if status.validation_loss is not None and status.validation_accuracy is not None:
        validation = f"{status.validation_loss:.3f} / {status.validation_accuracy:.0%}"
    return [
        status.state,
        status.device,
        f"{status.meta_step}/{status.num_meta_steps}",
        f"{status.support_loss:.3f}" if status.support_loss is not None else "",
        validation,
        f"{status.tasks_per_second:.1f}" if status.tasks_per_second is not None else "",
        _cell_eta(status, cells_at_work),
        status.reason,
    ]


def _cell_eta(status: CellStatus, cells_at_work: int) -> str:
    """Of a running cell: its share of the time per step, times the cells that share its device."""
    if status.state != "running" or not status.meta_step or not status.wall_seconds:
        return ""
    seconds_per_step = status.wall_seconds / status.meta_step * cells_at_work
    return duration((status.num_meta_steps - status.meta_step) * seconds_per_step)


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


def is_stale(worker: Worker) -> bool:
    """Whether a worker has missed so many heartbeats that it must be taken for dead."""
    return time.time() - worker.updated > SECONDS_UNTIL_STALE


def worker_lines(run: RunDirectory, statuses: Statuses) -> Iterator[str]:
    """A line per worker while there is work left."""
    if not any(status.state in ("running", "pending") for _, status in statuses):
        return
    for worker in run.read_workers():
        since = duration(max(0.0, time.time() - worker.updated))
        where = f"{worker.name}: process {worker.pid} on {worker.host}"
        if is_stale(worker):
            yield f"{where}, no sign of life for {since}: run the same command again to go on"
        else:
            yield f"{where}, alive {since} ago"


def tracker_failure_lines(failures: Mapping[str, str]) -> Iterator[str]:
    """A line per tracker that hears no more."""
    for name, reason in failures.items():
        yield f"warning: tracker {name!r} failed, and the run goes on without it ({reason})"


def _news(run: RunDirectory, told: set[str]) -> Iterator[str]:
    """What each worker will need, and which trackers have failed, once; `told` are those that have been named."""
    for worker in run.read_workers():
        if worker.name not in told:
            told.add(worker.name)
            yield f"{worker.name}: {worker.memory}"
    failures = {name: reason for name, reason in run.tracker_failures().items() if f"tracker {name}" not in told}
    told.update(f"tracker {name}" for name in failures)
    yield from tracker_failure_lines(failures)


def _show_table(run: RunDirectory, console: Console, stopped: threading.Event) -> None:
    told: set[str] = set()
    with Live(console=console, refresh_per_second=2) as live:
        while not stopped.wait(SECONDS_BETWEEN_FRAMES):
            for line in _news(run, told):
                live.console.print(line, soft_wrap=True, markup=False)
            statuses = _statuses_once_begun(run)
            if statuses:
                table = status_table(statuses)
                table.title = "; ".join(["cells", baselines_line(run), *filling_lines(run)])
                live.update(table)
        for line in _news(run, told):
            live.console.print(line, soft_wrap=True, markup=False)


def _show_lines(run: RunDirectory, console: Console, stopped: threading.Event) -> None:
    began, wait = time.monotonic(), SECONDS_BETWEEN_FRAMES
    told: set[str] = set()
    while not stopped.wait(wait):
        for line in _news(run, told):
            console.print(line, soft_wrap=True, markup=False)
        statuses = _statuses_once_begun(run)
        if statuses:
            line = " · ".join([progress_line(statuses, baselines_line(run)), *filling_lines(run)])
            console.print(f"{duration(time.monotonic() - began):>8}  {line}", soft_wrap=True, highlight=False)
            wait = SECONDS_BETWEEN_LINES
    for line in _news(run, told):
        console.print(line, soft_wrap=True, markup=False)


def _statuses_once_begun(run: RunDirectory) -> Statuses:
    return read_statuses(run) if run.is_begun else []
