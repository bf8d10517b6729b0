"""The process beside the training: tells trackers what the folder of a cell says, or what the sweep came to."""

import json
import math
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reptile_scaling.errors import InputError
from reptile_scaling.runs.cell_directory import CellDirectory
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.tracker_notes import TrackedRun, TrackerNotes
from reptile_scaling.tracking.trackers import TRACKERS, Handle, Place, open_tracker

SECONDS_BETWEEN_LOOKS = 1.0
LAUNCHERS = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""By these accelerate takes a process for one of several; those that tell trackers are each alone."""

Points = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Table → meta-step → figures by name."""


def begin_accelerate() -> None:
    """Its trackers do nothing before its state is made."""
    for name in LAUNCHERS:
        os.environ.pop(name, None)
    from accelerate import PartialState

    PartialState(cpu=True)


class Listener:
    """One tracker and its run. Once it has failed it hears no more, and its note says why."""

    def __init__(self, tracker: str, place: Place, notes: TrackerNotes) -> None:
        self._tracker, self._place, self._notes = tracker, place, notes
        self._note = replace(notes.read(tracker) or TrackedRun(""), failure="")
        self._handle: Handle | None = None
        self._has_failed = False

    def hear(self, settings: Mapping[str, Any], points: Points, final: Mapping[str, float]) -> None:
        """Points that it has not heard yet, by their steps, and once the final figures, where there are any.

        The note is written first: a process that is killed then leaves a gap at most, never a point told twice.
        """
        new = _unheard(points, self._note.told)
        is_last = bool(final) and not self._note.is_complete
        if self._has_failed or not (new or is_last):
            return
        before = self._note
        try:
            handle = self._opened(settings)
            before = self._note
            self._write(replace(before, told=_told(points, before.told, max(new, default=-1))))
            for step, figures in sorted(new.items()):
                handle.log(figures, step=step)
                before = replace(before, told=_told(points, before.told, step))
            if is_last:
                self._write(replace(self._note, is_complete=True))
                handle.log(final)
        except Exception as error:
            self._fail(before, error)

    def see(self, settings: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """Pictures by name."""
        if self._has_failed:
            return
        try:
            handle = self._opened(settings)
            for name, picture in pictures.items():
                TRACKERS[self._tracker].draw(handle, name, picture)
        except Exception as error:
            self._fail(self._note, error)

    @property
    def has_heard_all(self) -> bool:
        """Whether the final figures are told."""
        return self._note.is_complete

    def finish(self) -> None:
        """No more of this run for now."""
        if self._handle is None:
            return
        try:
            self._handle.finish()
        except Exception as error:
            self._fail(self._note, error)

    def _opened(self, settings: Mapping[str, Any]) -> Handle:
        if self._handle is None:
            note = self._note
            place = replace(self._place, run_id=note.run_id or secrets.token_hex(16), is_begun=note.is_begun)
            self._handle, place = open_tracker(self._tracker, place)
            if not note.is_begun:
                self._handle.store_init_configuration(dict(settings))
            self._write(replace(note, run_id=place.run_id, is_begun=True))
        return self._handle

    def _write(self, note: TrackedRun) -> None:
        self._notes.write(self._tracker, note)
        self._note = note

    def _fail(self, heard: TrackedRun, error: Exception) -> None:
        self._has_failed = True
        with suppress(Exception):
            self._write(replace(heard, failure=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))


def _unheard(points: Points, told: Mapping[str, int]) -> dict[int, dict[str, float]]:
    """Figures by step; the rows that two tables have of one step together."""
    new: dict[int, dict[str, float]] = {}
    for table, rows in points.items():
        for step, figures in rows.items():
            if step > told.get(table, -1):
                new.setdefault(step, {}).update(figures)
    return new


def _told(points: Points, before: Mapping[str, int], step: int) -> dict[str, int]:
    """What is told of each table once everything up to `step` is. A stop may come between a step and its evaluation,
    whose row is then younger than later looks at the other table."""
    return {
        table: max([before.get(table, -1), *(of_row for of_row in rows if of_row <= step)])
        for table, rows in points.items()
    } | {table: at for table, at in before.items() if table not in points}


def follow_cell(cell: CellDirectory, listeners: Sequence[Listener], over: threading.Event) -> None:
    """Tells what the cell's tables hold whenever they are written, until its result is told or the training is over."""
    read_at: object = None
    while True:
        is_over = over.is_set()
        files = [path for path in cell.path.glob("*_stats.csv")] + [cell.path / "final_result.json"]
        written_at = {path.name: path.stat().st_mtime_ns for path in files if path.exists()}
        if written_at and written_at != read_at:
            settings = flat_settings(json.loads((cell.path / "config.json").read_bytes()))
            try:
                points, final = cell_points(cell), final_figures(cell)
            except InputError:  # written anew and sealed between two reads
                if is_over:
                    raise
                over.wait(SECONDS_BETWEEN_LOOKS)
                continue
            read_at = written_at
            for listener in listeners:
                listener.hear(settings, points, final)
        if is_over or "final_result.json" in written_at:
            break
        over.wait(SECONDS_BETWEEN_LOOKS)
    for listener in listeners:
        listener.finish()


def cell_points(cell: CellDirectory) -> Points:
    """The rows of both tables; what is not finite is left out."""
    return {
        table: {row.meta_step: _figures(table, asdict(row), but=("meta_step",)) for row in rows}
        for table, rows in (("train", cell.read_train_stats()), ("eval", cell.read_eval_stats()))
    }


def final_figures(cell: CellDirectory) -> Mapping[str, float]:
    """Empty before the cell is done."""
    return _figures("final", asdict(cell.read_result())) if cell.is_done else {}


def _figures(kind: str, fields: Mapping[str, Any], but: Sequence[str] = ()) -> dict[str, float]:
    return {
        f"{kind}/{name}": value
        for name, value in fields.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and name not in but
    }


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every tracker takes text, numbers and booleans; anything else as JSON."""
    return {
        key: value if isinstance(value, str | int | float) else json.dumps(value) for key, value in settings.items()
    }


def sweep_settings(run: RunDirectory) -> dict[str, Any]:
    """The configuration, and what the law says in words."""
    return flat_settings({**run.config().model_dump(mode="json"), "verdict": run.read_summary()["verdict_sentence"]})


def sweep_figures(run: RunDirectory) -> dict[str, float]:
    """Of each form its parameters, weight and errors; accuracy and loss of each baseline."""
    law = run.read_fit()
    figures = _figures("law", law)
    for form, fields in law["forms"].items():
        figures |= _figures(f"law/{form}", fields)
    for name, baseline in run.read_baselines().items():
        figures |= _figures(f"baseline/{name}", {"accuracy": baseline.accuracy, "loss": baseline.loss})
    return figures


def tell_of_sweep(run: RunDirectory, listeners: Sequence[Listener]) -> None:
    """Law numbers, baselines and every figure that is drawn; what has been told of this law before is not again."""
    settings, figures = sweep_settings(run), sweep_figures(run)
    paths = [run.plot_path, run.baseline_plot_path, *sorted(run.figure_path("x").parent.glob("*.png"))]
    for listener in [listener for listener in listeners if not listener.has_heard_all]:
        listener.hear(settings, {}, figures)
        listener.see(settings, {path.stem: path for path in paths if path.exists()})
        listener.finish()
