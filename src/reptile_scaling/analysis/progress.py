"""Where a run stands: read from its folder alone, so any machine that sees it can say it."""

import time
from collections.abc import Iterator

from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import BaselineStatus, CellStatus, Worker

SECONDS_UNTIL_STALE = 30.0
SECONDS_OF_NOW = 3.0
"""A cache that was filled within these is being filled."""

CELL_COLUMNS = (
    "level", "seed", "state", "device", "step", "support loss", "validation loss / acc.", "tasks/s", "ETA", "note",
)  # fmt: skip

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


def duration(seconds: float) -> str:
    """`45 s`, `7 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


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


def cells_line(statuses: Statuses) -> str:
    """How many cells are in which state, and the time that is left."""
    counts = count_states(statuses)
    line = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if not counts["running"] and not counts["pending"]:
        return line
    eta = eta_seconds(statuses)
    return f"{line} · ETA {duration(eta) if eta is not None else 'after the first steps'}"


def cell_rows(statuses: Statuses) -> Iterator[tuple[str, ...]]:
    """The figures of every cell as texts, in the order of CELL_COLUMNS."""
    for cell, status in statuses:
        at_work = sum(s.state == "running" and s.device == status.device for _, s in statuses)
        yield (cell.level_name, str(cell.seed), *_row(status, at_work))


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
    if status.meta_step >= status.num_meta_steps:
        return "being tested"
    seconds_per_step = status.wall_seconds / status.meta_step * cells_at_work
    return duration((status.num_meta_steps - status.meta_step) * seconds_per_step)
