"""What people expect of meta-training on more tasks, each marked met or not met by a run: a Markdown table.

    python scripts/experiment/expectations.py runs/findings/banking77_smollm2

Reads the committed tables of the run, fits nothing but its law, and takes seconds. Differences in accuracy are paired
over the shared test tasks, with 95 % intervals; a level's accuracy on a task is the mean over its seeds.
"""

import argparse
from pathlib import Path

from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.analysis.paired import paired_gain
from reptile_scaling.analysis.standing import classes_of_tests, standings, task_accuracies, tuned_accuracies
from reptile_scaling.api import load_experiment
from reptile_scaling.errors import InputError
from reptile_scaling.runs.directory import RunDirectory

BETA = (0.2, 0.4)
R2 = 0.9
GAIN = (5.0, 15.0)
GAIN_LEVELS = (50, 1000)


def rows(folder: Path) -> list[tuple[str, bool, str]]:
    """(expectation, whether it is met, the number)."""
    run, record = RunDirectory(folder), load_experiment(folder)
    power = record.law.candidates["power"]
    beta, (low, high) = power.parameters["beta"], power.interval["beta"]
    chosen = record.law.candidates.get(record.law.verdict.form, power)
    if chosen is not power and "beta" in chosen.interval:
        a, b = chosen.interval["beta"]
        also = f"; {record.law.verdict.form}, the verdict: {chosen.parameters['beta']:.2f} ({a:.2f} to {b:.2f})"
    else:
        also = f"; the verdict is {record.law.verdict.form}"
    assert power.r2 is not None
    found = [
        (
            f"β between {BETA[0]} and {BETA[1]}",
            BETA[0] <= beta <= BETA[1],
            f"power law {beta:.2f} ({low:.2f} to {high:.2f}){also}",
        ),
        (f"R² of the power law above {R2}", power.r2 > R2, f"{power.r2:.3f}"),
    ]
    levels = {n: [cell for cell in run.cells() if cell.n_tasks == n] for n in GAIN_LEVELS}
    few, many = (task_accuracies(run, levels[n]) for n in GAIN_LEVELS)
    gain = paired_gain(many, few, classes_of_tests(run))
    what = f"{GAIN[0]:g} to {GAIN[1]:g} points of accuracy from N = {GAIN_LEVELS[0]} to {GAIN_LEVELS[1]}"
    found.append((what, GAIN[0] <= gain.points <= GAIN[1], f"{gain.points:+.1f} ± {gain.half_width:.1f}"))
    cells = best_cells(run)
    as_set, tuned = task_accuracies(run, cells), tuned_accuracies(run, cells)
    for s in standings(run):
        best = tuned if s.is_tuned and tuned is not None else as_set
        number = f"{best.mean():.1%} against {s.accuracy:.1%}: {s.gain:+.1f} ± {s.error:.1f} points"
        found.append((f"meta-training beats: {s.label}", s.verb == "beats", number))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    arguments = parser.parse_args()
    try:
        found = rows(arguments.run)
    except InputError as error:
        parser.error(str(error))
    print("| expectation | | measured |\n|---|---|---|")
    for what, is_met, number in found:
        print(f"| {what} | {'met' if is_met else '**not met**'} | {number} |")


if __name__ == "__main__":
    main()
