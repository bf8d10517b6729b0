"""A meta-trained SmolLM2 beside fine-tuning and frozen features, over class splits of a data set.

    python scripts/experiment/smollm2_splits.py results/methods/smollm2_splits.csv [--runs RUN …]

RUN are runs over `class_splits` of the preset `banking77_smollm2` or the like: the table gets rows of their finished
splits, in place of what it had of those; other splits stay. Then, and without `--runs` in seconds, prints for each
learner and number of shots the largest level beside fine-tuning at as many inner steps, at the steps that each has
chosen on validation tasks, and beside what reads frozen features, each at its best rate. Intervals are Student's over
splits, from three on, else those within splits, over test classes, tasks and seeds.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from reptile_scaling.analysis.class_splits import pooled_gain
from reptile_scaling.analysis.paired import Gain
from reptile_scaling.analysis.standing import standings, tuned_accuracies
from reptile_scaling.analysis.steps_worth import at_steps
from reptile_scaling.config import Config
from reptile_scaling.runs.directory import RunDirectory

KEY = ["dataset", "learner", "k_support", "class_split"]
FINE_TUNING, BEST = "fine-tuning", "best"


def learner_of(config: Config) -> str:
    """What a row is of, in words."""
    rates = ", learned rates" if config.inner_rates == "learned" else ""
    return f"{config.algorithm}, {config.head}{rates}, N = {max(config.n_tasks_list)}"


def collected(runs: list[Path]) -> pd.DataFrame:
    """A row for each finished split, rival and number of steps: accuracies, and the gain in points."""
    rows: list[dict[str, Any]] = []
    for folder in runs:
        run = RunDirectory(folder)
        config = run.config()
        for name, own in run.split_runs().items():
            if len(own.results()) < len(own.cells()) or "no_meta_tuned" not in own.read_baselines():
                continue
            key = {"dataset": config.dataset, "learner": learner_of(config), "k_support": config.k_support}
            key["class_split"] = name
            for at in at_steps(own):
                rows.append(key | row(FINE_TUNING, str(at.inner_step), at.accuracy, at.rival_accuracy, at.gain))
            tuned = tuned_accuracies(own, own.cells())
            for standing in standings(own):
                if standing.is_tuned and tuned is not None:
                    rival = FINE_TUNING if standing.name == "no_meta_tuned" else standing.label
                    ours = standing.accuracy + standing.gain / 100
                    rows.append(key | row(rival, BEST, ours, standing.accuracy, Gain(standing.gain, standing.error)))
    return pd.DataFrame(rows)


def row(rival: str, steps: str, ours: float, theirs: float, gain: Gain) -> dict[str, Any]:
    """One line of the table."""
    return {
        "rival": rival, "steps": steps, "accuracy": round(ours, 5), "rival_accuracy": round(theirs, 5),
        "points": round(gain.points, 3), "half_width": round(gain.half_width, 3),
    }  # fmt: skip


def beside(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table and those that a file has of other splits."""
    if not path.is_file():
        return table
    before = pd.read_csv(path, dtype={"steps": str})
    return pd.concat([before[~before.set_index(KEY).index.isin(table.set_index(KEY).index)], table])


def lines(table: pd.DataFrame) -> Iterator[str]:
    """Of every learner at every number of shots."""
    for (dataset, learner, shots), own in table.groupby(["dataset", "learner", "k_support"], sort=True):
        n_splits = own.class_split.nunique()
        name = f"{dataset}, {shots}-shot, {n_splits} splits: {learner}"
        yield f"| {name} | inner steps | accuracy | rival's | points beyond |"
        yield "|---|---|---|---|---|"
        for (rival, steps), rows in own.groupby(["rival", "steps"], sort=False):
            gain = pooled_gain([Gain(p, h) for p, h in zip(rows.points, rows.half_width, strict=True)])
            yield (
                f"| {rival} | {steps} | {rows.accuracy.mean():.1%} | {rows.rival_accuracy.mean():.1%} "
                f"| {gain.points:+.1f} ± {gain.half_width:.1f} |"
            )
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="TABLE")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="RUN")
    asked = parser.parse_args()
    if asked.runs:
        found = collected(asked.runs)
        if found.empty:
            parser.error(f"{', '.join(map(str, asked.runs))}: no finished split: give the folder of a run that has one")
        asked.table.parent.mkdir(parents=True, exist_ok=True)
        beside(asked.table, found).sort_values(KEY, kind="stable").to_csv(asked.table, index=False)
    if not asked.table.is_file():
        parser.error(f"{asked.table} is not there: give --runs, or a table that was made before")
    for line in lines(pd.read_csv(asked.table, dtype={"steps": str})):
        print(line)


if __name__ == "__main__":
    main()
