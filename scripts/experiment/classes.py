"""Tasks or classes? One table of runs that differ in `n_classes` and class split alone, and the surface L(N, classes).

    python scripts/experiment/classes.py results/classes_clinc150.csv [--runs RUN …]

RUN are finished runs of one class split each, `--set n_classes=10`, `25`, … and one without: the table gets their
splits in place of what it had of those. Then, and without `--runs` in seconds, prints test accuracy and loss by N and
training classes offered, means over splits; what more classes at one N and more tasks of as many classes cut the loss
by; and what tenfold tasks and tenfold classes met cut it by on the surface of each split (`SURFACE_LAWS`, docs/law.md).
Intervals are Student's over splits: a split is the replication. Frozen features' accuracy is the runs' `no_meta`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from over_splits import over_splits

from reptile_scaling.config import split_name
from reptile_scaling.laws import SURFACE_LAWS, SurfaceTable
from reptile_scaling.runs.directory import RunDirectory

ALL = "all"


def collected(runs: list[RunDirectory]) -> pd.DataFrame:
    """A row for each cell."""
    return pd.DataFrame(
        {
            "class_split": split_name(run.config().class_split), "offered": str(run.config().n_classes or ALL),
            "n_tasks": result.n_tasks, "seed": result.seed, "classes_met": result.distinct_classes,
            "utterances_met": result.distinct_utterances, "loss": result.meta_test_loss,
            "accuracy": result.meta_test_accuracy, "selected_meta_step": result.selected_meta_step,
            "frozen_accuracy": run.read_baselines()["no_meta"].accuracy,
        }
        for run in runs
        for result in run.results()
    )  # fmt: skip


def lines(cells: pd.DataFrame) -> Iterator[str]:
    """The table, the contrasts that need no surface, and the surfaces' answers."""
    offered = sorted(set(cells.offered), key=lambda name: np.inf if name == ALL else int(name))
    levels = sorted(set(cells.n_tasks))
    splits = cells.groupby("class_split")
    frozen = f"{splits.frozen_accuracy.first().mean():.1%} frozen"
    yield f"| N, {frozen}, {len(splits)} splits | {' | '.join(f'{name} classes' for name in offered)} |"
    yield "|---" * (1 + len(offered)) + "|"
    for level, rows in cells.groupby("n_tasks"):
        of_n = rows.groupby("offered")[["accuracy", "loss"]].mean()
        yield f"| {level} | {' | '.join(f'{of_n.accuracy[k]:.1%} ({of_n.loss[k]:.3f})' for k in offered)} |"
    loss = cells.pivot_table(index="class_split", columns=["offered", "n_tasks"], values="loss")
    few, many, least, most = offered[0], offered[-1], levels[0], levels[-1]
    for level in (least, most):
        cut = over_splits(1.0 - loss[many, level] / loss[few, level])
        yield f"At N = {level}, {many} classes instead of {few} cut the loss by {cut} %."
    for name in offered:
        cut = over_splits(1.0 - loss[name, most] / loss[name, least])
        yield f"Of {name} classes, N = {most} instead of {least} cuts the loss by {cut} %."
    if len(levels) > 2:
        fewer, met = levels[-2], cells.groupby(["offered", "n_tasks"])[["classes_met", "utterances_met"]].mean()
        here, there = met.loc[many, fewer], met.loc[few, most]
        yield (
            f"N = {fewer} of {many} classes instead of {most} of {few} ({here.classes_met:.0f} classes met instead of "
            f"{there.classes_met:.0f}, {here.utterances_met:.0f} utterances instead of {there.utterances_met:.0f}) "
            f"cuts the loss by {over_splits(1.0 - loss[many, fewer] / loss[few, most])} %."
        )
    laws = [surface(own) for _, own in splits]
    tasks, classes = (pd.Series([law[f"cut_by_tenfold_{name}"] for law in laws]) for name in ("tasks", "classes"))
    yield (
        f"On the splits' surfaces tenfold tasks cut the loss by {over_splits(tasks)} %, tenfold classes met by "
        f"{over_splits(classes)} %."
    )


def surface(cells: pd.DataFrame) -> dict[str, float]:
    """What tenfold tasks and tenfold classes met cut off the loss of one split's smallest cell, as shares of it."""
    names = tuple(f"{row.offered}/{row.n_tasks}/{row.seed}" for row in cells.itertuples())
    n, z, loss = (cells[name].to_numpy(float) for name in ("n_tasks", "classes_met", "loss"))
    law = SURFACE_LAWS["classes"](SurfaceTable(n, z, loss, names, "training classes met"))
    return {name: value for name, (value, _, _) in law.answers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", metavar="TABLE", type=Path, help="the table, a csv file")
    parser.add_argument("--runs", metavar="RUN", nargs="+", type=Path, help="finished runs to make it from")
    arguments = parser.parse_args()
    if arguments.runs:
        cells = collected([RunDirectory(run) for run in arguments.runs])
        if arguments.table.is_file():
            before = pd.read_csv(arguments.table, dtype={"offered": str})
            cells = pd.concat([before[~before.class_split.isin(cells.class_split)], cells])
        cells.sort_values(["class_split", "offered", "n_tasks"]).to_csv(arguments.table, index=False)
    if not arguments.table.is_file():
        parser.error(f"{str(arguments.table)!r} is not there: give results/classes_clinc150.csv, or runs by --runs")
    print(*lines(pd.read_csv(arguments.table, dtype={"offered": str})), sep="\n")


if __name__ == "__main__":
    main()
