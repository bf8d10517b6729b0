"""The mission's own table, preset `mission_smollm2`: levels, law, gain and standing, with slots drawn anew and fixed.

    python scripts/experiment/mission.py RESULTS [--permuted RUN] [--fixed RUN] [--figure FIGURE.png]

A run given is packed into RESULTS first (part_tables.py; what that unpacks, `run --out` goes on with). Then, and
without one in seconds, prints the tables of docs/findings.md. Losses in nats per query utterance; differences of
accuracy in points, paired over the shared test tasks, with 95 % intervals.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from expectations import rows as expectations
from findings import beyond
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from part_tables import pack, unpack

from reptile_scaling.analysis.standing import classes_of_tests, task_accuracies
from reptile_scaling.analysis.steps_worth import at_steps, worth_sentence
from reptile_scaling.api import load_experiment
from reptile_scaling.errors import InputError
from reptile_scaling.report.drawing import BLUE, GREY, ORANGE, drawing_style
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell

PARTS = {"permuted": "mission_smollm2", "fixed": "mission_smollm2_fixed"}
FEW, MANY = 50, 1000


def lines(permuted: RunDirectory, fixed: RunDirectory | None) -> Iterator[str]:
    """What the mission asks, in its order: a law, β, the gain from 50 to 1000, the rivals and at how many steps."""
    yield from level_table(permuted, "slots drawn anew")
    record = load_experiment(permuted.path)
    yield gain_sentence(permuted)
    yield from seeds_table(permuted)
    yield record.sentence
    yield record.standing
    yield worth_sentence(permuted)
    yield from steps_table(permuted)
    yield from curve_table(permuted, "slots drawn anew")
    if fixed is not None:
        yield from level_table(fixed, "slots fixed")
        yield from curve_table(fixed, "slots fixed")
        yield f"{gain_sentence(fixed).removesuffix('.')} where tasks keep their slots."
    yield "| expectation | | measured |"
    yield "|---|---|---|"
    for what, is_met, number in expectations(permuted.path):
        yield f"| {what} | {'met' if is_met else '**not met**'} | {number} |"


def level_table(run: RunDirectory, name: str) -> Iterator[str]:
    """A row a level, means over seeds: where its cells are tested, there and after their last meta-step."""
    tested = "loss | accuracy | before any step | tested at meta-step"
    yield f"| N, {name} | seeds | {tested} | last loss | last accuracy | visits a task |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for n, cells in load_experiment(run.path).results.groupby("n_tasks"):
        mean = cells.mean(numeric_only=True)
        yield (
            f"| {n} | {len(cells)} | {mean.meta_test_loss:.3f} | {mean.meta_test_accuracy:.1%} | "
            f"{mean.zero_step_accuracy:.1%} | {mean.selected_meta_step:.0f} of {mean.meta_steps:.0f} | "
            f"{mean.last_meta_test_loss:.3f} | {mean.last_meta_test_accuracy:.1%} | {mean.visits_per_task:.0f} |"
        )


def curve_table(run: RunDirectory, name: str) -> Iterator[str]:
    """Validation tasks, means over seeds: before the first meta-step, where all levels are at the same one, and where
    loss and accuracy of each are best."""
    curves = load_experiment(run.path).learning_curves
    means = curves.groupby(["n_tasks", "meta_step"])[["validation_loss", "validation_accuracy", "seed"]]
    of_all = means.mean()[means.count().seed == curves.groupby("n_tasks").seed.nunique().max()]
    losses = of_all.validation_loss.unstack("n_tasks").dropna()  # where no level has ended yet
    same = int(losses[max(curves.n_tasks)].idxmin())
    yield f"| N, {name}: validation loss / accuracy after meta-step | 0 | {same} | lowest loss | highest accuracy |"
    yield "|---|---|---|---|---|"
    for n in sorted(set(curves.n_tasks)):
        mean = of_all.loc[n]
        points = (0, same, mean.validation_loss.idxmin(), mean.validation_accuracy.idxmax())
        at = [f"{mean.validation_loss[p]:.3f} / {mean.validation_accuracy[p]:.1%}" for p in points]
        at[2:] = [f"{reading} ({p})" for reading, p in zip(at[2:], points[2:], strict=True)]
        yield f"| {n} | {' | '.join(at)} |"


def gain_sentence(run: RunDirectory) -> str:
    """Accuracy from the smallest to the largest N in the inner loop as it is set."""
    few, many = (task_accuracies(run, cells_of(run, n)) for n in (FEW, MANY))
    return f"From N = {FEW} to {MANY} accuracy gains {beyond(many, few, classes_of_tests(run))} points."


def seeds_table(run: RunDirectory) -> Iterator[str]:
    """The same seed by seed, and at which meta-step its two cells were chosen; nothing of one seed."""
    chosen = load_experiment(run.path).results.pivot(index="seed", columns="n_tasks", values="selected_meta_step")
    if len(chosen) == 1:
        return
    yield f"| seed | N = {FEW} tested at meta-step | N = {MANY} at | points from N = {FEW} to {MANY} |"
    yield "|---|---|---|---|"
    for seed, steps in chosen.iterrows():
        few, many = (task_accuracies(run, [c for c in cells_of(run, n) if c.seed == seed]) for n in (FEW, MANY))
        points = beyond(many, few, classes_of_tests(run))
        yield f"| {seed} | {steps[FEW]:.0f} | {steps[MANY]:.0f} | {points} |"


def steps_table(run: RunDirectory) -> Iterator[str]:
    """N = 50, N = 1000 and fine-tuning after as many inner steps, each at its best rate on validation tasks."""
    gains = f"points from N = {FEW} to {MANY} | points of N = {MANY} beyond fine-tuning"
    yield f"| inner steps | N = {FEW} | N = {MANY} | fine-tuning | {gains} |"
    yield "|---|---|---|---|---|---|"
    classes = classes_of_tests(run)
    for row in at_steps(run):
        few = np.array([accuracies_at(run, cell, row.inner_step) for cell in cells_of(run, FEW)])
        rival = f"{row.gain.points:+.1f} ± {row.gain.half_width:.1f}"
        yield (
            f"| {row.inner_step} | {few.mean():.1%} | {row.accuracy:.1%} | {row.rival_accuracy:.1%} | "
            f"{beyond(row.ours, few, classes)} | {rival} |"
        )


def cells_of(run: RunDirectory, n_tasks: int) -> list[Cell]:
    """The finished cells of one level."""
    return [result.cell for result in run.results() if result.n_tasks == n_tasks]


def accuracies_at(run: RunDirectory, cell: Cell, inner_step: int) -> np.ndarray:
    """`[tasks]`, of one cell after so many inner steps."""
    return np.array([row.accuracy for row in run.cell(cell).read_curve_readings() if row.inner_step == inner_step])


def draw(permuted: RunDirectory, fixed: RunDirectory | None, target: Path) -> None:
    """Validation loss and accuracy over meta-steps of the smallest and the largest N, and accuracy over inner steps."""
    looks = {FEW: ORANGE, MANY: BLUE}
    with drawing_style():
        figure = Figure(figsize=(13, 4), layout="constrained")
        losses, accuracies, steps = figure.subplots(1, 3)
        for run, line in ((permuted, "-"), (fixed, ":")):
            curves = load_experiment(run.path).learning_curves.sort_values("meta_step") if run else None
            for (n, _), curve in curves.groupby(["n_tasks", "seed"]) if curves is not None else ():
                if n in looks:
                    style = {"color": looks[n], "linestyle": line, "lw": 1.4}
                    losses.plot(curve.meta_step, curve.validation_loss, **style)
                    accuracies.plot(curve.meta_step, 100 * curve.validation_accuracy, **style)
        losses.set(xlabel="meta-steps", ylabel="validation loss after five inner steps, nats")
        accuracies.set(xlabel="meta-steps", ylabel="validation accuracy after five inner steps, %")
        for axes in (losses, accuracies):
            spread(axes, [0, 1, 10, 100, 1000, 10000])
        rows = at_steps(permuted)
        at = [row.inner_step for row in rows]
        for n, colour in looks.items():
            means = [
                100 * np.mean([accuracies_at(permuted, cell, step) for cell in cells_of(permuted, n)]) for step in at
            ]
            steps.plot(at, means, "o-", color=colour, label=f"N = {n}, slots drawn anew")
            if fixed is not None:
                steps.plot([], [], ":", color=colour, label=f"N = {n}, slots fixed (left and middle)")
        steps.plot(at, [100 * row.rival_accuracy for row in rows], "s-", color=GREY, label="fine-tuning")
        steps.set(xlabel="inner steps, each at its best rate", ylabel="test accuracy, %")
        spread(steps, at)
        steps.legend(frameon=False, fontsize=9)
        figure.savefig(target)


def spread(axes: Axes, ticks: list[int]) -> None:
    """Counts from 0 on, by their logarithm."""
    axes.set(xscale="symlog", xticks=ticks)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS", type=Path, help="the repository's results/")
    parser.add_argument("--permuted", type=Path, help="a run of the preset, to be packed")
    parser.add_argument("--fixed", type=Path, help="a run of it with slots: fixed, to be packed")
    parser.add_argument("--figure", type=Path, help="also draw the figure of the page, here")
    arguments = parser.parse_args()
    results: Path = arguments.results
    for kind, part in PARTS.items():
        if given := getattr(arguments, kind):
            pack(given, results / part)
    if not (results / PARTS["permuted"]).is_dir():
        parser.error(f"{str(results)!r} holds no folder {PARTS['permuted']!r}: give results/, or a run by --permuted")
    with tempfile.TemporaryDirectory() as aside:
        try:
            runs = {
                kind: RunDirectory(unpack(results / part, Path(aside) / part))
                for kind, part in PARTS.items()
                if (results / part).is_dir()
            }
            permuted, fixed = runs["permuted"], runs.get("fixed")
            print(*(line for line in lines(permuted, fixed) if line), sep="\n")
            if arguments.figure:
                draw(permuted, fixed, arguments.figure)
        except InputError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
