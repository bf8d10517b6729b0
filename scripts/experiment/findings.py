"""The tables, verdicts and figure of docs/findings_version_01.md, from the experiment's committed tables, in a minute.

    python scripts/experiment/findings.py RESULTS [--figure FIGURE.png] [--pages FOLDER]

RESULTS is what `scripts/experiment/banking77.py` leaves. Trains nothing. A test compares its lines with the page's.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from part_tables import MAIN, unpack_all

from reptile_scaling.analysis.law_of_run import losses_of_run
from reptile_scaling.analysis.paired import TaskClasses, paired_gain
from reptile_scaling.analysis.standing import classes_of_tests, initialisations_of, task_accuracies
from reptile_scaling.analysis.training_facts import cost_of_run, overtraining_sentence
from reptile_scaling.api import RunRecord, load_experiment
from reptile_scaling.errors import InputError
from reptile_scaling.laws import compare_arms
from reptile_scaling.report import write_report
from reptile_scaling.report.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, drawing_style
from reptile_scaling.runs.directory import RunDirectory

SWEEPS = ("", "_short", "_classes", "_resampled", "_classifier")


def level_table(record: RunRecord) -> Iterator[str]:
    """A row per level: means over its seeds, the seeds' losses, and what was trained on."""
    axis = record.config.axis
    name = "N" if axis == "n_tasks" else axis
    yield f"| {name} | loss | of each seed | accuracy | before any step | classes | utterances | visits a task |"
    yield "|---|---|---|---|---|---|---|---|"
    for level, cells in record.results.groupby("n_tasks" if axis == "n_tasks" else "x"):
        losses = ", ".join(f"{loss:.3f}" for loss in cells.meta_test_loss)
        mean = cells.mean(numeric_only=True)
        yield (
            f"| {level:g} | {mean.meta_test_loss:.3f} | {losses} | {mean.meta_test_accuracy:.1%} | "
            f"{mean.zero_step_accuracy:.1%} | {mean.distinct_classes:.0f} | {mean.distinct_utterances:.0f} | "
            f"{mean.visits_per_task:g} |"
        )


def beyond(ours: np.ndarray, theirs: np.ndarray, classes: TaskClasses | None) -> str:
    """Points of accuracy beyond the others', paired over test tasks, with the half-width of a 95 % interval."""
    gain = paired_gain(ours, theirs, classes)
    return f"{gain.points:+.1f} ± {gain.half_width:.1f}"


def gain_lines(runs: Path) -> Iterator[str]:
    """Accuracy from N = 50 to the largest N, with either head."""
    for part, head in (("", "label words"), ("_classifier", "a classifier")):
        run = RunDirectory(runs / f"{MAIN}{part}")
        few, many = (task_accuracies(run, [c for c in run.cells() if c.n_tasks == n]) for n in (50, 1000))
        yield f"From N = 50 to 1000 accuracy gains {beyond(many, few, classes_of_tests(run))} points with {head}."


def short_lines(runs: Path) -> Iterator[str]:
    """The short part beside the main part's fine-tuning on the same test tasks."""
    run, main = RunDirectory(runs / f"{MAIN}_short"), RunDirectory(runs / MAIN)
    baselines, classes = main.read_baselines(), classes_of_tests(main)
    fine_tuning = [baselines["no_meta"], baselines["no_meta_tuned"]]
    yield f"| N, 25 meta-steps | {' | '.join(f'points beyond {b.label}' for b in fine_tuning)} |"
    yield "|---|---|---|"
    for n in run.config().n_tasks_list:
        accuracies = task_accuracies(run, [cell for cell in run.cells() if cell.n_tasks == n])
        yield f"| {n} | {' | '.join(beyond(accuracies, initialisations_of(b), classes) for b in fine_tuning)} |"


def joint_lines(runs: Path) -> Iterator[str]:
    """Joint training at each outer rate beside the largest level of the main part, paired over test tasks."""
    main = RunDirectory(runs / MAIN)
    largest = [cell for cell in main.cells() if cell.n_tasks == max(main.config().n_tasks_list)]
    reference = task_accuracies(main, largest)
    yield "| joint training, outer rate | validation loss | loss | accuracy | Reptile at the same N, points beyond it |"
    yield "|---|---|---|---|---|"
    for folder in sorted(runs.glob(f"{MAIN}_joint_*")):
        run, record = RunDirectory(folder), load_experiment(folder)
        end = record.learning_curves.sort_values("meta_step").groupby("seed").validation_loss.last().mean()
        accuracies = task_accuracies(run, run.cells())
        loss = record.results.meta_test_loss.mean()
        yield (
            f"| {record.config.meta_lr} | {end:.3f} | {loss:.3f} | {accuracies.mean():.1%} | "
            f"{beyond(reference, accuracies, classes_of_tests(main))} |"
        )


def mode_lines(runs: Path) -> Iterator[str]:
    """Resampled utterances against fixed ones: loss at the levels that both have, paired by seed and test task."""
    fixed, resampled = (losses_of_run(RunDirectory(runs / f"{MAIN}{part}")) for part in ("", "_resampled"))
    yield "| N | loss, resampled minus fixed (95 % interval) |"
    yield "|---|---|"
    compared = compare_arms(fixed, resampled)
    for n, gap, low, high in zip(compared.x, compared.difference, compared.low, compared.high, strict=True):
        yield f"| {n:g} | {gap:+.3f} ({low:+.3f} to {high:+.3f}) |"


def cost_lines(runs: Path) -> Iterator[str]:
    """What each part took, summed over its cells and baselines: resuming a run leaves no other total."""
    for folder in sorted(runs.glob(f"{MAIN}*")):
        cost = cost_of_run(RunDirectory(folder))
        yield f"{folder.name}: {60 * cost.cell_hours:.0f} min of cells, {60 * cost.baseline_hours:.0f} of baselines"


def draw(runs: Path, target: Path) -> None:
    """Loss over tasks and over distinct utterances; small dots are cells, lines go through the means of a level."""
    looks = {
        "": (BLUE, "o", "250 meta-steps, fixed utterances"),
        "_resampled": (GREEN, "s", "250 meta-steps, resampled utterances"),
        "_short": (ORANGE, "^", "25 meta-steps"),
        "_classes": (PURPLE, "D", "5 to 25 classes, 200 tasks"),
    }
    with drawing_style():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        over_tasks, over_utterances = figure.subplots(1, 2, sharey=True)
        for part, (colour, marker, label) in looks.items():
            cells = load_experiment(runs / f"{MAIN}{part}").results
            level = "x" if part == "_classes" else "n_tasks"
            for axes, x in ((over_tasks, "n_tasks"), (over_utterances, "distinct_utterances")):
                if axes is over_tasks and part == "_classes":
                    continue
                means = cells.groupby(level)[[x, "meta_test_loss"]].mean()
                axes.plot(cells[x], cells.meta_test_loss, marker, color=colour, alpha=0.35, markersize=4)
                axes.plot(means[x], means.meta_test_loss, marker + "-", color=colour, label=label)
        baselines = load_experiment(runs / MAIN).baselines
        for axes, x in ((over_tasks, "meta-training tasks, N"), (over_utterances, "distinct training utterances")):
            axes.set(xscale="log", yscale="log", xlabel=x)
            axes.set_yticks([0.2, 0.25, 0.3, 0.35], ["0.20", "0.25", "0.30", "0.35"])
            axes.yaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(ScalarFormatter())
            for name in ("no_meta", "no_meta_tuned"):
                axes.axhline(baselines.loss[name], color=GREY, linestyle=":")
        for name, shift in (("no_meta", 3), ("no_meta_tuned", -10)):
            over_tasks.annotate(
                baselines.label[name], (0.99, baselines.loss[name]), (0, shift), fontsize=8, color=GREY, ha="right",
                xycoords=("axes fraction", "data"), textcoords="offset points",
            )  # fmt: skip
        over_tasks.set_ylabel("meta-test loss, nats per query utterance")
        over_utterances.legend(frameon=False, fontsize=9)
        figure.savefig(target)


def print_tables(runs: Path) -> None:
    """Every sweep's levels, law and standing, then what goes across the parts."""
    for part in SWEEPS:
        record = load_experiment(runs / f"{MAIN}{part}")
        said = (record.sentence, overtraining_sentence(RunDirectory(record.folder), record.law), record.standing)
        print(f"\n{record.folder.name}\n", *level_table(record), "", *filter(None, said), sep="\n")
    for lines in (gain_lines, short_lines, mode_lines, joint_lines, cost_lines):
        print("", *lines(runs), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS", type=Path, help="the repository's results/")
    parser.add_argument("--figure", type=Path, help="also draw the figure of the page, here")
    parser.add_argument("--pages", type=Path, help="also make each part a run folder below this one, with its page")
    arguments = parser.parse_args()
    if not (arguments.results / MAIN).is_dir():
        parser.error(f"{str(arguments.results)!r} holds no folder {MAIN!r}: give the repository's results/")
    with tempfile.TemporaryDirectory() as aside:
        runs = arguments.pages or Path(aside)
        try:
            unpack_all(arguments.results, runs)
            print_tables(runs)
            if arguments.figure:
                draw(runs, arguments.figure)
            if arguments.pages:
                for folder in sorted(runs.glob(f"{MAIN}*")):
                    write_report(RunDirectory(folder))
        except InputError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
