"""Meta-trained on one data set, tested on another: every level beside every rival, with intervals.

    python scripts/experiment/across.py results/across.csv [--runs RUN …]

RUN are finished runs with `test_dataset`, of the preset `banking77_minilm` or the like; the table is made anew of them.
Then, and without `--runs` at once, prints it. Intervals are over test classes and tasks of one split (and seeds, where
there are several): how splits differ is not in them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from over_splits import LABELS

from reptile_scaling.analysis.paired import paired_gain
from reptile_scaling.analysis.standing import classes_of_tests, initialisations_of, task_accuracies
from reptile_scaling.runs.directory import RunDirectory


def rows(folder: Path) -> Iterator[dict[str, object]]:
    """One for each level and rival of a run."""
    run = RunDirectory(folder)
    config, classes = run.config(), classes_of_tests(run)
    for level in sorted({result.n_tasks for result in run.results()}):
        ours = task_accuracies(run, [result.cell for result in run.results() if result.n_tasks == level])
        for rival in run.read_baselines().values():
            if rival.is_rival:
                gain = paired_gain(ours, initialisations_of(rival), classes)
                yield {
                    "trained_on": config.dataset, "tested_on": config.test_dataset, "k_support": config.k_support,
                    "n_tasks": level, "accuracy": round(float(ours.mean()), 5), "rival": rival.name,
                    "rival_accuracy": round(rival.accuracy, 5), "points": round(gain.points, 3),
                    "half_width": round(gain.half_width, 3),
                }  # fmt: skip


def lines(table: pd.DataFrame) -> Iterator[str]:
    """As the page has them."""
    yield "| trained on → tested on | N | accuracy | rival | its accuracy | points beyond it |"
    yield "|---|---|---|---|---|---|"
    for row in table.itertuples():
        where = f"{row.trained_on} → {row.tested_on}, {row.k_support}-shot"
        yield (
            f"| {where} | {row.n_tasks} | {row.accuracy:.1%} | {LABELS[str(row.rival)]} | {row.rival_accuracy:.1%} "
            f"| {row.points:+.1f} ± {row.half_width:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", metavar="TABLE", type=Path)
    parser.add_argument("--runs", metavar="RUN", nargs="+", type=Path, help="finished runs to make the table from")
    asked = parser.parse_args()
    if asked.runs:
        pd.DataFrame([row for folder in asked.runs for row in rows(folder)]).to_csv(asked.table, index=False)
    if not asked.table.is_file():
        parser.error(f"{str(asked.table)!r} is not there: give results/across.csv, or finished runs by --runs")
    print(*lines(pd.read_csv(asked.table)), sep="\n")


if __name__ == "__main__":
    main()
