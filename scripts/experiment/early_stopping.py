"""Does the law stand if every cell stops where its own validation loss is lowest? Two laws of a run, in seconds.

    python scripts/experiment/early_stopping.py runs/findings/banking77_smollm2

Every level trains for the same number of meta-steps, so a task is visited more often the fewer there are, and a falling
curve may only show what many visits do to few tasks. Both laws are of validation losses (nats): at the end, and at
their lowest.
"""

import argparse
from pathlib import Path

import pandas as pd

from reptile_scaling.api import load_experiment
from reptile_scaling.errors import InputError
from reptile_scaling.laws import fit_law, table_from_frame, verdict_sentence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    arguments = parser.parse_args()
    try:
        print_laws(arguments.run)
    except InputError as error:
        parser.error(str(error))


def print_laws(folder: Path) -> None:
    """The table of both losses, level by level, and the verdict of each."""
    curves = load_experiment(folder).learning_curves.sort_values("meta_step")
    rows = []
    for (n_tasks, seed), curve in curves.groupby(["n_tasks", "seed"]):
        best = curve.iloc[int(curve.validation_loss.argmin())]
        end = curve.iloc[-1].validation_loss
        rows.append((n_tasks, seed, end, best.validation_loss, best.meta_step))
    table = pd.DataFrame(rows, columns=["n_tasks", "seed", "loss at the end", "lowest loss", "at meta-step"])
    print(table.drop(columns="seed").groupby("n_tasks").mean().round(3).to_string())
    for column in ("loss at the end", "lowest loss"):
        print(verdict_sentence(fit_law(table_from_frame(table, "n_tasks", column, "seed"))))


if __name__ == "__main__":
    main()
