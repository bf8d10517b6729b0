"""Do tasks pay where no slot can be remembered? Heads that are computed from a support set, N tasks, class splits.

    python scripts/experiment/over_splits.py results/minilm [--runs RUN …] [--rivals RIVAL …]
        [--beside OTHER] [--figure FIGURE.png] [--steps-figure FIGURE.png]

RUN are runs of the presets `banking77_minilm` or `banking77_words`, at any number of shots: RESULTS gets `cells.csv`,
`baselines.csv` and, of runs with curves, `steps.csv` (the largest N beside fine-tuning at as many inner steps) of their
finished splits, in place of what it had of those; other splits and other N stay, so they may be run one by one. RIVAL
are runs of the same splits under another head, of which fine-tuning alone is taken. Then, and without `--runs` in
seconds, prints the tables, endpoints and laws of docs/findings.md from these, and the same cells of OTHER, a folder
like RESULTS, of another learner. Intervals are Student's over splits, from three on: a split is the replication.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from reptile_scaling.analysis.class_splits import SPLITS_FOR_A_SPREAD, pooled_gain
from reptile_scaling.analysis.paired import Gain
from reptile_scaling.analysis.standing import initialisations_of, tuned_accuracies
from reptile_scaling.analysis.steps_worth import at_steps
from reptile_scaling.config import split_name
from reptile_scaling.laws import fit_law, table_from_frame, verdict_sentence
from reptile_scaling.report.drawing import BLUE, GREY, ORANGE, drawing_style
from reptile_scaling.runs.directory import RunDirectory

FEW, MANY = 50, 1000
BEST = "chosen"
KEY = ["k_support", "names", "class_split"]
"""What a row is of: shots, whether names are in the support sets, and the split."""
OWN_HEAD = {"fine_tuning": "the same head", "label_words": "label words"}
"""What fine-tuning began from, by the column of its accuracies."""
OWN_FEATURES, SAME_LOOP = "no_meta", "no_meta_steps"
"""Fine-tuning in the cells' loop: where that takes no inner step, it is what their head gives on frozen features."""
LABELS = {
    OWN_FEATURES: "the cells' head, frozen features",
    SAME_LOOP: "fine-tuning in the cells' inner loop",
    "no_meta_tuned": "fine-tuning from there, tuned rate and steps",
    "nearest_mean": "nearest mean, frozen features",
    "logistic_regression": "logistic regression, frozen features",
}


def collected(runs: list[Path]) -> dict[str, pd.DataFrame]:
    """A row for each cell of each split, for each baseline of each split, and for each number of inner steps."""
    cells, baselines, steps = [], [], []
    for folder in runs:
        run = RunDirectory(folder)
        for name, own in runs_by_split(run).items():
            if len(own.results()) < len(own.cells()):
                continue
            key = key_of(run, name)
            for result in own.results():
                cells.append(
                    key
                    | {
                        "n_tasks": result.n_tasks, "seed": result.seed, "meta_steps": result.meta_steps,
                        "selected_meta_step": result.selected_meta_step, "loss": result.meta_test_loss,
                        "accuracy": result.meta_test_accuracy, "last_loss": result.last_meta_test_loss,
                        "last_accuracy": result.last_meta_test_accuracy, "utterances": result.distinct_utterances,
                        "wall_seconds": round(result.wall_seconds),
                    }
                )  # fmt: skip
            for baseline in own.read_baselines().values():
                takes_steps = baseline.name == OWN_FEATURES and run.config().test_steps > 0
                kind = SAME_LOOP if takes_steps else baseline.name
                baselines.append(key | {"baseline": kind, "loss": baseline.loss, "accuracy": baseline.accuracy})
            steps += [key | row for row in at_equal_steps(own)]
    tables = {"cells": cells, "baselines": baselines, "steps": steps}
    return {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}


def key_of(run: RunDirectory, split: str) -> dict[str, Any]:
    """What a split of a run is filed under."""
    config = run.config()
    return {"k_support": config.k_support, "names": config.names_in_support, "class_split": split}


def runs_by_split(run: RunDirectory) -> dict[str, RunDirectory]:
    """Those of several class splits, or the one of a single split."""
    return run.split_runs() or {split_name(run.config().class_split): run}


def label_of(baseline: str) -> str:
    """For people; fine-tuning from another head has its name behind a comma."""
    _, _, head = baseline.partition(", ")
    return f"fine-tuning from {OWN_HEAD.get(head, head)} alone, tuned rate and steps" if head else LABELS[baseline]


def rivals_of(runs: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fine-tuning's row of each split, named after the head that it began from; its accuracy by inner steps."""
    rows, steps = [], []
    for run in map(RunDirectory, runs):
        config = run.config()
        for name, own in runs_by_split(run).items():
            if (rival := own.read_baselines().get("no_meta_tuned")) is not None:
                key = key_of(run, name)
                rows.append(
                    key | {"baseline": f"{rival.name}, {config.head}", "loss": rival.loss, "accuracy": rival.accuracy}
                )
                curve = {str(point.inner_step): point.accuracy for point in rival.adaptation_curve}
                steps += [
                    key | {"inner_steps": n, config.head: value}
                    for n, value in (curve | {BEST: rival.accuracy}).items()
                ]
    return pd.DataFrame(rows), pd.DataFrame(steps)


def at_equal_steps(run: RunDirectory) -> Iterator[dict[str, float | str]]:
    """Cells of the largest N beside fine-tuning after as many inner steps, each at its best rate, and at the numbers of
    steps that each has chosen on validation tasks. Nothing without curves."""
    rows = at_steps(run)
    for at in rows:
        yield {"inner_steps": str(at.inner_step), "accuracy": at.accuracy, "fine_tuning": at.rival_accuracy}
    largest = [r.cell for r in run.results() if r.level == max(other.level for other in run.results())]
    ours = tuned_accuracies(run, largest) if rows else None
    if ours is not None:
        theirs = initialisations_of(run.read_baselines()["no_meta_tuned"])
        yield {"inner_steps": BEST, "accuracy": float(ours.mean()), "fine_tuning": float(theirs.mean())}


def beside(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table and those that a file has of other splits, and of cells also of other N."""
    if not path.is_file():
        return table
    before = pd.read_csv(path)
    key = key_columns(table)
    is_new = before.set_index(key).index.isin(table.set_index(key).index)
    return pd.concat([before[~is_new], table])


def key_columns(table: pd.DataFrame) -> list[str]:
    """What a row is found by: a cell also by its N."""
    return [name for name in (*KEY, "n_tasks") if name in table]


def over_splits(points: pd.Series) -> str:
    """Mean and half-width of Student's 95 % interval of one number a split, in points of accuracy; of the splits that
    were run."""
    gain = pooled_gain([Gain(100 * float(value), 0.0) for value in points.dropna()])
    is_spread = points.count() >= SPLITS_FOR_A_SPREAD
    interval = f" ± {gain.half_width:.1f}" if is_spread else ", too few splits for an interval"
    return f"{gain.points:+.1f}{interval}"


def best_rival(baselines: pd.DataFrame) -> pd.Series:
    """Accuracy by split of the rival that is best on the test tasks, of those that were measured on all splits."""
    table = baselines.pivot(index="class_split", columns="baseline", values="accuracy").dropna(axis="columns")
    return table[table.mean().idxmax()]


def shapes(cells: pd.DataFrame) -> Iterator[tuple[str, Callable[[pd.DataFrame], "pd.Series[bool]"]]]:
    """Shots and names of the tasks there are, for people, and which rows of a table are of such tasks."""
    for shots, names in sorted({(int(s), bool(n)) for s, n in zip(cells.k_support, cells.names, strict=True)}):
        is_so = partial(_is_of, shots=shots, names=names)
        yield f"{shots}-shot, names in the support" if names else f"{shots}-shot", is_so


def _is_of(table: pd.DataFrame, shots: int, names: bool) -> "pd.Series[bool]":
    return (table.k_support == shots) & (table.names == names)


def lines(cells: pd.DataFrame, baselines: pd.DataFrame, steps: pd.DataFrame | None) -> Iterator[str]:
    """The table of each number of shots, the endpoints and the law over N, and fine-tuning at as many steps."""
    for shape, of_shape in shapes(cells):
        of_shots, frozen = cells[of_shape(cells)], baselines[of_shape(baselines)]
        rival = best_rival(frozen)
        n_splits = of_shots.class_split.nunique()
        yield f"| {shape}, {n_splits} splits | loss | accuracy | beyond the best rival | meta-step |"
        yield "|---|---|---|---|---|"
        for name, own in frozen.groupby("baseline"):
            yield f"| {label_of(str(name))} | {own.loss.mean():.3f} | {own.accuracy.mean():.1%} | | |"
        for n, level in of_shots.groupby("n_tasks"):
            accuracy = level.groupby("class_split").accuracy.mean()
            # A level that was not run on all splits says on how many.
            n_own = f", {len(accuracy)} splits" if len(accuracy) < n_splits else ""
            yield (
                f"| N = {n}{n_own} | {level.loss.mean():.3f} | {accuracy.mean():.1%} | "
                f"{over_splits(accuracy - rival)} | "
                f"{level.selected_meta_step.mean():.0f} of {level.meta_steps.mean():.0f} |"
            )
        by_level = of_shots.pivot_table(index="class_split", columns="n_tasks", values="accuracy")
        if FEW in by_level:
            gain = over_splits(by_level[MANY] - by_level[FEW])
            yield f"{shape}: from N = {FEW} to {MANY} accuracy gains {gain} points."
        if len(by_level.columns) > 2:
            table = table_from_frame(of_shots.astype({"class_split": str}), "n_tasks", "loss", "class_split")
            yield f"{shape}: {verdict_sentence(fit_law(table))}"
        if steps is not None:
            yield from lines_of_steps(shape, steps[of_shape(steps)])


def lines_beside(cells: pd.DataFrame, other: pd.DataFrame, name: str) -> Iterator[str]:
    """Accuracy of two learners' cells of as many tasks on the splits that both have."""
    for shape, of_shape in shapes(cells):
        ours, theirs = (
            own[of_shape(own)].pivot_table(index="class_split", columns="n_tasks", values="accuracy")
            for own in (cells, other)
        )
        splits = ours.index.intersection(theirs.index)
        yield f"| {shape} | here | {name} | points |"
        yield "|---|---|---|---|"
        for n in ours.columns.intersection(theirs.columns):
            both = pd.DataFrame({"here": ours.loc[splits, n], "there": theirs.loc[splits, n]}).dropna()
            here, there = both.mean()
            gain = over_splits(both.here - both.there)
            yield f"| N = {n}, {len(both)} splits | {here:.1%} | {there:.1%} | {gain} |"


def lines_of_steps(shape: str, steps: pd.DataFrame) -> Iterator[str]:
    """The largest N beside fine-tuning from its own head and from others, and beyond the one that is best on the test
    tasks at as many steps."""
    heads = [str(name) for name in steps if name not in (*KEY, "inner_steps", "accuracy")]
    columns = " | ".join(f"fine-tuning from {OWN_HEAD.get(head, head)}" for head in heads)
    yield f"| {shape}, inner steps | N = {MANY} | {columns} | points beyond the best of them |"
    yield "|---" * (3 + len(heads)) + "|"
    for number, rows in steps.groupby("inner_steps", sort=False):
        rivals = rows[heads].dropna(axis="columns")
        best = rivals[rivals.mean().idxmax()]
        cells = " | ".join(f"{rivals[head].mean():.1%}" if head in rivals else "" for head in heads)
        beyond = over_splits((rows.accuracy - best).reset_index(drop=True))
        yield f"| {number} | {rows.accuracy.mean():.1%} | {cells} | {beyond} |"


def draw(cells: pd.DataFrame, baselines: pd.DataFrame, target: Path) -> None:
    """Accuracy over N: thin lines are splits, the thick one their mean; dotted, the best on frozen features."""
    shown = [shape for shape in shapes(cells) if cells[shape[1](cells)].n_tasks.nunique() > 2]
    with drawing_style():
        figure = Figure(figsize=(5.2 * len(shown), 4), layout="constrained")
        for axes, (shape, of_shape) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            of_shots = cells[of_shape(cells)]
            for _, own in of_shots.sort_values("n_tasks").groupby("class_split"):
                axes.plot(own.n_tasks, 100 * own.accuracy, "-", color=BLUE, alpha=0.3)
            mean = of_shots.groupby("n_tasks")[["accuracy", "last_accuracy"]].mean()
            axes.plot(mean.index, 100 * mean.accuracy, "o-", color=BLUE, label="chosen on validation classes")
            axes.plot(mean.index, 100 * mean.last_accuracy, "^--", color=ORANGE, label="after the last meta-step")
            rival = best_rival(baselines[of_shape(baselines)])
            axes.axhline(100 * rival.mean(), color=GREY, linestyle=":", label=f"without: {label_of(str(rival.name))}")
            axes.set(xscale="log", xlabel="meta-training tasks, N", ylabel="test accuracy, %", title=shape)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.set_xticks(np.unique(of_shots.n_tasks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.legend(frameon=False, fontsize=9)
        figure.savefig(target)


def draw_steps(steps: pd.DataFrame, target: Path) -> None:
    """Accuracy over inner steps, means over splits: the cells of the largest N and fine-tuning from each head."""
    shown = [*shapes(steps)]
    columns = {"accuracy": (f"meta-trained, N = {MANY}", BLUE, "o-")}
    columns |= {
        name: (f"fine-tuning from {OWN_HEAD.get(name, name)}", colour, style)
        for (name, colour, style) in zip(OWN_HEAD, (GREY, ORANGE), ("s:", "^--"), strict=True)
    }
    with drawing_style():
        figure = Figure(figsize=(5.2 * len(shown), 4), layout="constrained")
        for axes, (shape, of_shape) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            numbered = steps[of_shape(steps) & (steps.inner_steps != BEST)]
            means = numbered.astype({"inner_steps": int}).groupby("inner_steps")[[*columns]].mean()
            for name, (label, colour, style) in columns.items():
                axes.plot(range(len(means)), 100 * means[name], style, color=colour, label=label)
            axes.set_xticks(range(len(means)), [str(n) for n in means.index])
            axes.set(xlabel="inner steps", ylabel="test accuracy, %", title=shape)
            axes.legend(frameon=False, fontsize=9)
        figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS", type=Path, help="the folder of the two tables")
    parser.add_argument("--runs", metavar="RUN", nargs="+", type=Path, help="finished runs to make the tables from")
    parser.add_argument(
        "--rivals", metavar="RIVAL", nargs="+", type=Path, default=[], help="fine-tuning of other heads"
    )
    parser.add_argument("--beside", metavar="OTHER", type=Path, help="another learner's RESULTS")
    parser.add_argument("--figure", type=Path, help="also draw the figure of the page, here")
    parser.add_argument("--steps-figure", type=Path, help="also draw accuracy over inner steps, here")
    arguments = parser.parse_args()
    folder: Path = arguments.results
    if arguments.runs:
        folder.mkdir(parents=True, exist_ok=True)
        tables = collected(arguments.runs)
        if arguments.rivals:
            rivals, at = rivals_of(arguments.rivals)
            of_the_runs = rivals.merge(tables["baselines"][KEY].drop_duplicates(), "inner", KEY)
            tables["baselines"] = pd.concat([tables["baselines"], of_the_runs])
            if "steps" in tables:
                tables["steps"] = tables["steps"].merge(at, "left", [*KEY, "inner_steps"])
        for name, table in tables.items():
            kept = beside(folder / f"{name}.csv", table)
            kept.sort_values(key_columns(kept), kind="stable").to_csv(folder / f"{name}.csv", index=False)
    if not (folder / "cells.csv").is_file():
        parser.error(f"{str(folder)!r} holds no cells.csv: give results/minilm, or finished runs by --runs")
    cells, baselines = (pd.read_csv(folder / f"{name}.csv") for name in ("cells", "baselines"))
    of_steps = folder / "steps.csv"
    steps = pd.read_csv(of_steps, dtype={"inner_steps": str}) if of_steps.is_file() else None
    print(*lines(cells, baselines, steps), sep="\n")
    if arguments.beside:
        print(*lines_beside(cells, pd.read_csv(arguments.beside / "cells.csv"), arguments.beside.name), sep="\n")
    if arguments.figure:
        draw(cells, baselines, arguments.figure)
    if arguments.steps_figure and steps is not None:
        draw_steps(steps, arguments.steps_figure)


if __name__ == "__main__":
    main()
