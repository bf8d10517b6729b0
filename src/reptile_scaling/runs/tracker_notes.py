"""What trackers have been told of a run, so that a resumed one goes on where they stopped hearing."""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from reptile_scaling import disk
from reptile_scaling.disk import named_refusals
from reptile_scaling.errors import InputError
from reptile_scaling.storage import read_record, write_record

TOLD = "told"
LOG = "log.txt"


@dataclass(frozen=True)
class TrackedRun:
    """`told/<tracker>.json` of a cell, `told/<law>/<tracker>.json` of a law."""

    run_id: str
    is_begun: bool = False
    """Whether the tracker has this run."""
    told: dict[str, int] = field(default_factory=dict)
    """By table: up to which meta-step its rows are told, and not told again."""
    is_complete: bool = False
    """Whether the final figures are told."""
    failure: str = ""
    """Why the tracker hears no more, if it does not."""


@dataclass(frozen=True)
class TrackerNotes:
    """The folder of one tracked run's notes."""

    path: Path

    @property
    def log_path(self) -> Path:
        """What trackers print."""
        return self.path / LOG

    def read(self, tracker: str) -> TrackedRun | None:
        """None of a run that the tracker does not know."""
        return read_record(self.path / f"{tracker}.json", TrackedRun)

    def write(self, tracker: str, note: TrackedRun) -> None:
        write_record(self.path / f"{tracker}.json", note)

    def fail(self, tracker: str, reason: str) -> None:
        """The tracker hears no more of this run until it is started again."""
        self.write(tracker, replace(self.read(tracker) or TrackedRun(""), failure=reason))

    def failures(self) -> dict[str, str]:
        """Reasons by tracker."""
        found = {}
        for file in sorted(self.path.glob("*.json")):
            with contextlib.suppress(InputError):
                note = read_record(file, TrackedRun)
                if note is not None and note.failure:
                    found[file.stem] = note.failure
        return found

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """One process tells of a run at a time: an earlier one may still be telling its last points."""
        with named_refusals(self.path):
            disk.make_folder(self.path)
        end = time.monotonic() + seconds
        while (lock := disk.take_lock(self.path / ".lock")) is disk.Lock.OF_ANOTHER and time.monotonic() < end:
            time.sleep(0.2)
        if lock is disk.Lock.OF_ANOTHER:
            raise InputError(f"another process tells trackers what {str(self.path)!r} notes: wait for it")
        try:
            yield
        finally:
            if isinstance(lock, int):
                os.close(lock)
