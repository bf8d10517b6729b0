"""The training's side: starts the processes that tell trackers, and ends them. No tracker here."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from reptile_scaling.interruption import StopRequested
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.tracker_notes import TrackerNotes
from reptile_scaling.tracking.notes import notes_of

SECONDS_TO_FINISH = 120.0
"""For the last points of a cohort, or the sweep's run: longer than a tracker takes whose server answers."""


@contextmanager
def followed(run: RunDirectory, cells: Sequence[Cell], trackers: Sequence[str], project: str) -> Iterator[None]:
    """Tells `trackers` of the cells that the block trains, and waits a while until their last points are told; where
    the block is interrupted at once, they end by themselves."""
    started = {cell: _start(run, project, trackers, cell) for cell in cells} if trackers else {}
    processes = {cell: process for cell, process in started.items() if process is not None}
    is_cut_off = False
    try:
        yield
    except KeyboardInterrupt as interruption:
        is_cut_off = not isinstance(interruption, StopRequested)
        raise
    finally:
        deadline = time.monotonic() + SECONDS_TO_FINISH
        for process in processes.values():
            _end_of_news(process)
        for cell, process in () if is_cut_off else processes.items():
            _wait(notes_of(run, cell), trackers, process, deadline)


def track_sweep(run: RunDirectory) -> None:
    """Tells the trackers of the run's configuration what it came to: law, baselines, figures. A failure is noted."""
    trackers = run.config().track
    if not trackers:
        return
    process = _start(run, run.title, trackers, None)
    if process is None:
        return
    _wait(notes_of(run, None), trackers, process, time.monotonic() + SECONDS_TO_FINISH)
    _end_of_news(process)


def _start(
    run: RunDirectory, project: str, trackers: Sequence[str], cell: Cell | None
) -> "subprocess.Popen[bytes] | None":
    """In a session of its own, so that Ctrl-C does not cut off the last points; at the lowest priority. None where the
    machine has no room for one more process."""
    notes = notes_of(run, cell)
    notes.path.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "reptile_scaling.tracking", str(run.path), project, ",".join(trackers)]
    try:
        with open(notes.log_path, "ab") as log:
            process = subprocess.Popen(
                [*command, json.dumps(asdict(cell))] if cell else command,
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )  # fmt: skip
    except OSError as error:
        _fail(notes, trackers, f"its process did not start: {error.strerror}")
        return None
    os.setpriority(os.PRIO_PROCESS, process.pid, 5)
    return process


def _end_of_news(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()


def _wait(notes: TrackerNotes, trackers: Sequence[str], process: "subprocess.Popen[bytes]", deadline: float) -> None:
    """Until the process has ended by itself; one that crashes or hangs is a failure of all of its trackers."""
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
        reason = f"its process ended with code {code}: see {notes.log_path}" if code else ""
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        reason = f"it did not end within {SECONDS_TO_FINISH:.0f} s"
    if reason:
        _fail(notes, trackers, reason)


def _fail(notes: TrackerNotes, trackers: Sequence[str], reason: str) -> None:
    for tracker in trackers:
        note = notes.read(tracker)
        if note is None or not note.is_complete:
            notes.fail(tracker, reason)
