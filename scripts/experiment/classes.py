"""Tasks or classes? One table of runs that differ in `n_classes` alone, and the surface L(N, classes) over it.

    python scripts/experiment/classes.py results/classes_clinc150.csv [--runs RUN …]

RUN are finished runs of one class split, `--set n_classes=10`, `25`, … and one without. Then, and without `--runs` in
seconds, prints test accuracy by N and training classes offered, and what tenfold tasks and tenfold classes met cut the
loss by, with 95 % intervals (`SURFACE_LAWS`, docs/law.md). Frozen features' accuracy is the runs' `no_meta`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from reptile_scaling.laws import SURFACE_LAWS, SurfaceTable
from reptile_scaling.runs.directory import RunDirectory

ALL = "all"


def collected(runs: list[RunDirectory]) -> pd.DataFrame:
    """A row for each cell."""
    return pd.DataFrame(
        {
            "offered": str(run.config().n_classes or ALL), "n_tasks": result.n_tasks, "seed": result.seed,
            "classes_met": result.distinct_classes, "utterances_met": result.distinct_utterances,
            "loss": result.meta_test_loss, "accuracy": result.meta_test_accuracy,
            "selected_meta_step": result.selected_meta_step,
            "frozen_accuracy": run.read_baselines()["no_meta"].accuracy,
        }
        for run in runs
        for result in run.results()
    )  # fmt: skip


def lines(cells: pd.DataFrame) -> Iterator[str]:
    """The table, then the surface's sentence, its misfit and its warnings."""
    offered = sorted(set(cells.offered), key=lambda name: np.inf if name == ALL else int(name))
    yield f"| N, {cells.frozen_accuracy.iloc[0]:.1%} frozen | {' | '.join(f'{name} classes' for name in offered)} |"
    yield "|---" * (1 + len(offered)) + "|"
    for level, rows in cells.groupby("n_tasks"):
        of_n = rows.groupby("offered")[["accuracy", "loss"]].mean()
        yield f"| {level} | {' | '.join(f'{of_n.accuracy[k]:.1%} ({of_n.loss[k]:.3f})' for k in offered)} |"
    names = tuple(f"{row.offered}/{row.n_tasks}/{row.seed}" for row in cells.itertuples())
    n, z, loss = (cells[name].to_numpy(float) for name in ("n_tasks", "classes_met", "loss"))
    law = SURFACE_LAWS["classes"](SurfaceTable(n, z, loss, names, "training classes met"))
    yield f"{law.sentence} The surface misfits by {law.misfit:.1%}."
    yield from law.warnings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", metavar="TABLE", type=Path, help="the table, a csv file")
    parser.add_argument("--runs", metavar="RUN", nargs="+", type=Path, help="finished runs to make it from")
    arguments = parser.parse_args()
    if arguments.runs:
        collected([RunDirectory(run) for run in arguments.runs]).to_csv(arguments.table, index=False)
    if not arguments.table.is_file():
        parser.error(f"{str(arguments.table)!r} is not there: give results/classes_clinc150.csv, or runs by --runs")
    print(*lines(pd.read_csv(arguments.table, dtype={"offered": str})), sep="\n")


if __name__ == "__main__":
    main()
