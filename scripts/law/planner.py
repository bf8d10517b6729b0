"""Does planning run by run pay? `python scripts/law/planner.py [sweeps per world] [seed]`, 2 minutes on one slow core.

Sweeps begin with five levels × two seeds. Then either the planner's first cell is run, again and again, or the five
levels in turn (an even grid), until the 95 % interval of β is as narrow as asked. What both spent is compared, with
how often the last interval covers the truth. Prices: every run costs the same (a fixed number of meta-steps), or a
run costs as N (every task visited as often). Writes results/law/planner.json.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.laws import LossTable
from reptile_scaling.laws.candidates import Candidate, fit_candidate
from reptile_scaling.laws.forms import FORMS, LOG_LINEAR, POWER
from reptile_scaling.laws.levels import Levels, gather_levels
from reptile_scaling.laws.next_cell import rank_cells
from reptile_scaling.laws.worlds import World, draw_table, run_loss
from reptile_scaling.randomness import stream

START = np.array([4.0, 16.0, 64.0, 256.0, 1024.0])
MOST_RUNS = 60
# World, width of β's interval to reach (a half to a third of what the first ten runs give).
WORLDS = {
    "power, 5% even": (World("power", FORMS["power"], (3.0, 0.3), START, 2, 0.05), 0.03),
    "power, 5% falling": (World("power", FORMS["power"], (3.0, 0.3), START, 2, 0.05, 0.3), 0.03),
    "power_floor, 3% even": (World("power_floor", FORMS["power_floor"], (2.0, 0.5, 0.5), START, 2, 0.03), 0.15),
    "power_floor, 3% falling": (World("power_floor", FORMS["power_floor"], (2.0, 0.5, 0.5), START, 2, 0.03, 0.3), 0.15),
}
PRICES: dict[str, Callable[[float], float]] = {"the same": lambda n: 1.0, "as N": lambda n: n / 256.0}


def spend(world: World, width: float, price: Callable[[float], float], planned: bool, seed: int) -> tuple[float, bool]:
    """What a sweep spends until β's interval is `width` wide, and whether that interval covers the truth."""
    rng = stream(seed, "planner")
    table, turn = draw_table(world, rng), 0
    spent = sum(price(float(x)) for x in table.x)
    while True:
        candidate, levels = fitted(world, table)
        low, high = candidate.interval["beta"] if candidate.identified and candidate.interval else (-np.inf, np.inf)
        if high - low <= width or table.x.size >= MOST_RUNS:
            return spent, bool(low <= world.parameters[1] <= high)
        if planned and candidate.identified:
            rival = LOG_LINEAR if world.truth == "power" else POWER
            x = rank_cells(candidate, rival, levels, price=price, goal="narrow_beta", largest_x=1024.0)[0].x
        else:
            x = float(START[turn % START.size])
            turn += 1
        spent += price(x)
        loss = run_loss(world, np.array([x]), rng)
        table = LossTable(np.append(table.x, x), np.append(table.loss, loss))


def fitted(world: World, table: LossTable) -> tuple[Candidate, Levels]:
    levels = gather_levels(table)
    return fit_candidate(world.form, table, levels, 100, 0), levels


def main(n_sweeps: int, seed: int) -> None:
    results: dict[str, Any] = {}
    for name, (world, width) in WORLDS.items():
        for price_name, price in PRICES.items():
            row = {}
            for way, planned in (("planned", True), ("even grid", False)):
                answers = [spend(world, width, price, planned, seed * 1000 + i) for i in range(n_sweeps)]
                row[way] = {
                    "median_spent": float(np.median([spent for spent, _ in answers])),
                    "covered": float(np.mean([covered for _, covered in answers])),
                }
            results[f"{name}; a run costs {price_name}"] = {"width": width, "n_sweeps": n_sweeps, **row}
            planned_, even = row["planned"], row["even grid"]
            print(
                f"| {name}; {price_name} | {width:g} | {planned_['median_spent']:.3g} "
                f"({100 * planned_['covered']:.0f} %) | {even['median_spent']:.3g} ({100 * even['covered']:.0f} %) | "
                f"{planned_['median_spent'] / even['median_spent']:.2f} |",
                flush=True,
            )
    Path("results/law/planner.json").write_text(json.dumps({"seed": seed, "worlds": results}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=int, nargs="?", default=30, help="simulated sweeps")
    parser.add_argument("seed", type=int, nargs="?", default=1907)
    given = parser.parse_args()
    main(given.sweeps, given.seed)
