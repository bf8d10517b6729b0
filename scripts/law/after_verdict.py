"""Once a verdict has chosen the form: how often does β's interval still hold the truth?

    python scripts/law/after_verdict.py [sweeps per world] [seed]

Truths of laws/worlds that have a β meet even, falling and rising noise. Counted are sweeps whose verdict names a β: its
form's own interval, which knows nothing of the choice; the one reported, over all forms that the verdict leaves open;
and that of a power law with a floor, asked for whatever the verdict says. Prints a table and writes
results/law/after_verdict_seed<seed>.json. Half a second a sweep on one slow core. The rule was chosen while looking at
seed 31; the seed in docs/law.md was run once, afterwards.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reptile_scaling.laws import fit_law
from reptile_scaling.laws.worlds import NOISE_TRENDS, NoiseTrend, Truth, draw_table, draw_world
from reptile_scaling.randomness import stream

SEED = 31
TRUTHS: tuple[Truth, ...] = ("power", "power_floor")
KINDS = ("own form", "reported", "power_floor")


@dataclass
class Count:
    """Intervals of one kind in one world."""

    hits: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, interval: tuple[float, float], beta: float) -> None:
        self.hits.append(bool(interval[0] <= beta <= interval[1]))
        self.widths.append(float(interval[1] - interval[0]))


def count(truth: Truth, noise: NoiseTrend, n_sweeps: int, seed: int, n_bootstrap: int = 300) -> dict[str, Count]:
    """Sweeps of one world; in each row the same sweeps, those whose verdict names a β."""
    rng = stream(seed, "after verdict", truth, noise)
    found = {kind: Count() for kind in KINDS}
    for _ in range(n_sweeps):
        world = draw_world(truth, rng, noise)
        law = fit_law(draw_table(world, rng), n_bootstrap=n_bootstrap)
        reported = law.exponent_interval()
        if reported is None:
            continue
        own, floor = (law.candidates[name].interval.get("beta") for name in (law.verdict.form, "power_floor"))
        for kind, interval in zip(KINDS, (own, reported, floor), strict=True):
            if interval is not None:
                found[kind].add(interval, world.parameters[1])
    return found


def main(n_sweeps: int, seed: int) -> None:
    by_world, total = {}, {kind: Count() for kind in KINDS}
    for truth in TRUTHS:
        for noise in NOISE_TRENDS:
            found = count(truth, noise, n_sweeps, seed)
            for kind, of in found.items():
                total[kind].hits += of.hits
                total[kind].widths += of.widths
            by_world[f"{truth}, {noise}"] = {kind: summary(of) for kind, of in found.items()}
            print(row(f"{truth}, {noise}", by_world[f"{truth}, {noise}"]), flush=True)
    by_world["all"] = {kind: summary(of) for kind, of in total.items()}
    print(row("all", by_world["all"]))
    results = {"seed": seed, "n_sweeps": n_sweeps, "by_world": by_world}
    Path(f"results/law/after_verdict_seed{seed}.json").write_text(json.dumps(results, indent=1) + "\n")


def summary(of: Count) -> dict[str, float]:
    return {"n": len(of.hits), "held": sum(of.hits), "median_width": float(np.median(of.widths))}


def row(world: str, kinds: dict[str, dict[str, float]]) -> str:
    cells = [f"{of['held']} of {of['n']} ({of['median_width']:.3g})" for of in kinds.values()]
    return f"| {world} | {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=int, nargs="?", default=100, help="per world")
    parser.add_argument("seed", type=int, nargs="?", default=SEED)
    asked = parser.parse_args()
    main(asked.sweeps, asked.seed)
