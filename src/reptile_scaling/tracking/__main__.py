"""`python -m reptile_scaling.tracking RUN_FOLDER PROJECT TRACKERS [CELL]`: tells trackers of a cell, or of the sweep.

Of a cell it tells until the result is told or standard input ends, which it does with the process that trains.
"""

import json
import os
import sys
import threading
from pathlib import Path

from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.tracking.notes import law_name, notes_of
from reptile_scaling.tracking.telling import Listener, begin_accelerate, follow_cell, tell_of_sweep
from reptile_scaling.tracking.trackers import Place

SECONDS_FOR_THE_ONE_BEFORE = 60.0


def main() -> None:
    folder, project, names, *cell_fields = sys.argv[1:]
    run, over = RunDirectory(Path(folder)), threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(over,), daemon=True).start()
    cell = Cell(**json.loads(cell_fields[0])) if cell_fields else None
    name = cell.name if cell else law_name(run)
    notes, place = notes_of(run, cell), Place(project, name, run.trackers_folder)
    begin_accelerate()
    with notes.held(SECONDS_FOR_THE_ONE_BEFORE):
        listeners = [Listener(tracker, place, notes) for tracker in names.split(",")]
        if cell:
            follow_cell(run.cell(cell), listeners, over)
        else:
            tell_of_sweep(run, listeners)


def _wait_for_the_end(over: threading.Event) -> None:
    while os.read(0, 1):
        pass
    over.set()


if __name__ == "__main__":
    main()
