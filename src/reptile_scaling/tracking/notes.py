"""Where what trackers have been told is noted: of a cell, or of the law of a run."""

import json

from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.tracker_notes import TrackerNotes
from reptile_scaling.seals import sha256


def law_name(run: RunDirectory) -> str:
    """What the run of a sweep's law is called: another law, of more cells, is another run."""
    return f"law_{sha256(json.dumps(run.read_fit()).encode())[:8]}"


def notes_of(run: RunDirectory, cell: Cell | None) -> TrackerNotes:
    """What trackers have been told of a cell; of the law where there is none."""
    return run.cell(cell).tracker_notes if cell else run.law_notes(law_name(run))
