"""What visits and inner steps do to the law of a run: `python scripts/law/surfaces.py [folder of a run]`, seconds.

L(N, visits) from every validation of every cell, L(N, inner steps) from the adaptation curves of the test tasks. Prints
each verdict with its reasons and answers; writes results/law/surfaces.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reptile_scaling.laws.surfaces import SurfaceTable, fit_inner_steps, fit_meta_steps
from reptile_scaling.runs.directory import RunDirectory


def visits_of(run: RunDirectory) -> SurfaceTable:
    """Validation loss of every cell at every evaluation, over N and how often each task had been visited."""
    batch = run.config().meta_batch_size
    rows = [
        (cell.n_tasks, row.meta_step * batch / cell.n_tasks, row.validation_loss, cell.name)
        for cell in run.cells()
        for row in run.cell(cell).read_eval_stats()
        if row.meta_step > 0
    ]
    return _table(rows, "visits")


def inner_steps_of(run: RunDirectory) -> SurfaceTable:
    """Test loss over N and inner steps, where a cell has its adaptation curve; step 0 is before any adaptation."""
    rows = [
        (cell.n_tasks, row.inner_step, row.loss, cell.name)
        for cell in run.cells()
        for row in run.cell(cell).read_adaptation_curve()
        if row.inner_step > 0
    ]
    return _table(rows, "inner steps")


def _table(rows: Sequence[tuple[int, float, float, str]], z_name: str) -> SurfaceTable:
    n, z, loss = (np.array([row[i] for row in rows], dtype=float) for i in range(3))
    return SurfaceTable(n, z, loss, tuple(row[3] for row in rows), z_name)


def main(folder: Path) -> None:
    run = RunDirectory(folder)
    laws = {"meta_steps": fit_meta_steps(visits_of(run)), "inner_steps": fit_inner_steps(inner_steps_of(run))}
    for name, law in laws.items():
        print(f"{name}: {law.verdict}; {'; '.join(law.reasons)}; misfit {law.misfit:.1%}", *law.warnings, sep="\n  ")
        for answer, (value, low, high) in law.answers.items():
            print(f"  {answer} = {value:.3g} [{low:.3g}, {high:.3g}]")
    Path("results/law/surfaces.json").write_text(
        json.dumps({name: law.as_json() for name, law in laws.items()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs/findings/banking77_smollm2"), help="a run folder"
    )
    main(parser.parse_args().folder)
