"""What slots that a task keeps do to the curve: the demo's sweep with slots fixed and with slots drawn anew.

    python scripts/experiment/slots.py RUNS [key=value …]

Both sweeps test the last meta-step, so that nothing is selected away. Writes results/protocol/slots.csv (a row a cell)
and docs/figures/slots.png. RUNS keeps the run folders; a sweep that was cut goes on.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from reptile_scaling.api import run_experiment
from reptile_scaling.config import load_config
from reptile_scaling.errors import InputError
from reptile_scaling.report.drawing import BLUE, ORANGE, drawing_style, label_ends, level_ticks, loss_ticks, new_chart

ROOT = Path(__file__).parents[2]
TABLE, FIGURE = ROOT / "results" / "protocol" / "slots.csv", ROOT / "docs" / "figures" / "slots.png"
KEPT = ["n_tasks", "seed", "meta_test_loss", "meta_test_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUNS", type=Path, help="a folder for both runs")
    parser.add_argument("settings", metavar="key=value", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    try:
        table = pd.concat([swept(arguments.runs, slots, tuple(arguments.settings)) for slots in ("fixed", "permuted")])
    except InputError as error:
        parser.error(str(error))
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(TABLE, index=False)
    draw(table)
    print(
        table.groupby(["slots", "n_tasks"])[["meta_test_loss", "zero_step_loss", "meta_test_accuracy"]].mean().round(3)
    )


def swept(runs: Path, slots: str, settings: tuple[str, ...]) -> pd.DataFrame:
    """The cells of one sweep, with the validation loss before any inner step at their end."""
    keys = (f"slots={slots}", "select=last", "patience=null", "curve_steps=[]", "baselines=[]")
    record = run_experiment(load_config("demo", (*keys, *settings)).model_dump(mode="json"), runs / slots)
    last = record.learning_curves.sort_values("meta_step").groupby(["n_tasks", "seed"]).zero_step_loss.last()
    return record.results[KEPT].join(last, on=["n_tasks", "seed"]).assign(slots=slots)


def draw(table: pd.DataFrame) -> None:
    """Test loss over N, both ways."""
    chart = new_chart("slots", "Test loss over tasks, with slots fixed and drawn anew")
    with drawing_style():
        ends = []
        for (slots, rows), colour in zip(table.groupby("slots"), (ORANGE, BLUE), strict=True):
            means = rows.groupby("n_tasks").meta_test_loss.mean()
            chart.axes.plot(rows.n_tasks, rows.meta_test_loss, "o", ms=4, color=colour, alpha=0.6)
            chart.axes.plot(means.index, means, color=colour, lw=1.8)
            name = "slots kept by each task" if slots == "fixed" else "slots drawn anew at each visit"
            ends.append((float(means.index[-1]), float(means.iloc[-1]), name, colour))
        level_ticks(chart.axes, np.unique(table.n_tasks))
        loss_ticks(chart.axes, table.meta_test_loss.to_numpy())
        chart.axes.set_xlabel("meta-training tasks, N")
        chart.axes.set_ylabel("meta-test loss, nats")
        label_ends(chart.axes, ends)
    chart.save(FIGURE)
    FIGURE.with_suffix(".svg").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
