"""The page of a run while it runs: drawn from its first curve on, anew as cells and baselines come in.

A process of its own draws: in a thread of this one matplotlib would hold the interpreter's lock, for which training
asks thousands of times a second. Pages that someone waits for, the first and that of the first law, are drawn at the
run's own priority, the others at the lowest: beside two busy cores those take minutes.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from reptile_scaling.analysis.missing import has_first_curve
from reptile_scaling.runs.directory import RunDirectory

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_PAGES = 20.0


@contextmanager
def renewed_page(run: RunDirectory, console: Console) -> Iterator[None]:
    """Keeps `report.html` up to date while the block runs; the last page is left to the caller."""
    stopped = threading.Event()
    thread = threading.Thread(target=_renew, args=(run, console, stopped), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _renew(run: RunDirectory, console: Console, stopped: threading.Event) -> None:
    """Whatever is finished at the start is on the page of that time, or on the first one drawn now."""
    drawn, had_all_cells, not_before, is_first = finished_names(run), _has_all_cells(run), 0.0, True
    while not stopped.wait(SECONDS_BETWEEN_LOOKS):
        found, has_all_cells = finished_names(run), _has_all_cells(run)
        if found == drawn or not has_first_curve(run):
            continue
        is_first_law = has_all_cells and not had_all_cells  # what the run is for: it does not wait
        if time.monotonic() < not_before and not is_first_law:
            continue
        not_before = time.monotonic() + SECONDS_BETWEEN_PAGES
        said = draw_apart(run, stopped, is_awaited=is_first or is_first_law)
        if said is None:
            return
        if is_first or is_first_law:
            so_far = "" if has_all_cells else ", so far"
            console.print(f"{run.report_path}{so_far}: {said}", soft_wrap=True, markup=False)
        drawn, had_all_cells, is_first = found, has_all_cells, False


def draw_apart(run: RunDirectory, stopped: threading.Event, *, is_awaited: bool = False) -> str | None:
    """Draws the page in a process of its own; its verdict, or why there is none; None once `stopped` ends it."""
    command = [sys.executable, "-m", "reptile_scaling.report", str(run.path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    if not is_awaited:
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)
    while True:
        try:
            out, err = process.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            if stopped.is_set():
                process.kill()
                process.communicate()
                return None
    if process.returncode:
        return f"this page could not be drawn yet ({(err.strip().splitlines() or ['killed'])[-1]})"
    return out.strip()


def finished_names(run: RunDirectory) -> frozenset[str]:
    """The cells and baselines that have a result; none before the run has begun."""
    if not run.is_begun:
        return frozenset()
    cells = (cell.name for cell in run.cells() if run.cell(cell).is_done)
    return frozenset([*cells, *run.read_baselines()])


def _has_all_cells(run: RunDirectory) -> bool:
    return run.is_begun and all(run.cell(cell).is_done for cell in run.cells())
