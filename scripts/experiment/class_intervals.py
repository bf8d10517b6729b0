"""How often the standing's 95 % intervals hold the true difference, where test classes, tasks and seeds all scatter.

    python scripts/experiment/class_intervals.py [WORLDS]

Every world draws tasks of 5 out of C test classes, effects of classes, tasks and seeds on the difference of two starts,
and asks whether the interval holds the truth. Beside it: the interval over tasks alone, as version 0.1 had it. Prints a
table and writes results/protocol/class_intervals.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from reptile_scaling.analysis.paired import paired_gain

OUT = Path(__file__).parents[2] / "results" / "protocol" / "class_intervals.json"
SETTINGS = [
    {"n_classes": c, "class_sd": class_sd, "seed_sd": seed_sd, "n_seeds": seeds}
    for c in (19, 27)
    for class_sd, seed_sd in ((0.0, 0.0), (0.03, 0.0), (0.03, 0.01), (0.1, 0.01))
    for seeds in (2, 3)
]
N_TASKS, N_WAY, TASK_SD = 200, 5, 0.04


def covers(setting: dict[str, float], world: int) -> tuple[bool, bool]:
    """Whether the interval that knows of classes holds the truth (0), and the one over tasks alone."""
    rng, n_classes, n_seeds = np.random.default_rng(world), int(setting["n_classes"]), int(setting["n_seeds"])
    effects = setting["class_sd"] * rng.standard_normal(n_classes)
    tasks = [rng.permutation(n_classes)[:N_WAY] for _ in range(N_TASKS)]
    shared = np.array([effects[chosen].mean() for chosen in tasks]) + TASK_SD * rng.standard_normal(N_TASKS)
    scatter = setting["seed_sd"] * rng.standard_normal((n_seeds, 1)) + 0.01 * rng.standard_normal((n_seeds, N_TASKS))
    ours, theirs = 0.9 + shared + scatter, np.full((1, N_TASKS), 0.9)
    gain = paired_gain(ours, theirs, tuple(tuple(str(c) for c in chosen) for chosen in tasks))
    points = 100 * (ours.mean(0) - theirs[0])
    alone = 1.96 * points.std(ddof=1) / N_TASKS**0.5
    return abs(gain.points) <= gain.half_width, abs(points.mean()) <= alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", type=int, nargs="?", default=400, help="per setting")
    n_worlds = parser.parse_args().worlds
    print("| classes | class sd | seed sd | seeds | covered | over tasks alone |\n|---|---|---|---|---|---|")
    rows = []
    for setting in SETTINGS:
        found = np.mean([covers(setting, world) for world in range(n_worlds)], axis=0)
        rows.append({**setting, "covered": float(found[0]), "covered_over_tasks_alone": float(found[1])})
        shown = " | ".join(f"{value:g}" for value in setting.values())
        print(f"| {shown} | {found[0]:.1%} | {found[1]:.1%} |", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"worlds": n_worlds, "settings": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
