"""How often 95 % intervals cover the truth: `python scripts/law/coverage.py [sweeps per setting] [seed]`.

Prints rows of the table in docs/law.md and writes results/law/coverage_seed<seed>.json. About 0.05 s a sweep on one
slow core. `right` settings fit the form that made the data; `WRONG` ones another, to show what a confident mistake
looks like. Rules were chosen while looking at seeds 4, 11 and 77; the seed in docs/law.md was run once, afterwards.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.laws import fit_law
from reptile_scaling.laws.candidates import fit_candidate
from reptile_scaling.laws.forms import FORMS
from reptile_scaling.laws.levels import gather_levels
from reptile_scaling.laws.table import LossTable
from reptile_scaling.laws.worlds import Truth, World, draw_table
from reptile_scaling.randomness import stream

SEED = 4
SEVEN = np.array([2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0])
EIGHT = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 50.0, 200.0, 1000.0])
TRUE_PARAMETERS: dict[Truth, dict[str, tuple[float, ...]]] = {
    "power": {"": (3.0, 0.3)},
    "power_floor": {"": (2.0, 0.5, 0.7), "shallow ": (2.0, 0.25, 0.3)},
    "log_linear": {"": (2.5, 0.25)},
}


@dataclass(frozen=True)
class Setting:
    """A world, the form fitted to it, and what is not ideal: a shared seed effect, noisy test tasks."""

    name: str
    world: World
    fitted: str
    seed_effect: float = 0.0
    n_test_tasks: int = 0


@dataclass
class Count:
    """Hits and widths of one kind of interval for one parameter."""

    hits: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        return {"coverage": float(np.mean(self.hits)), "median_width": float(np.median(self.widths))}


def settings() -> list[Setting]:
    """Even noise of 1 and 5 %; 2, 3, 5 seeds with even, falling, rising noise; then what breaks the assumptions."""
    found = []
    for truth, variants in TRUE_PARAMETERS.items():
        for variant, parameters in variants.items():
            for noise in (0.01, 0.05):
                found.append(_setting(f"{variant}{truth}, 7 x 3, {noise:.0%}", truth, parameters, SEVEN, 3, noise))
        parameters = variants[""]
        for n_seeds in (2, 3, 5):
            for exponent, word in ((0.0, "even"), (0.4, "falling"), (-0.3, "rising")):
                name = f"{truth}, 8 x {n_seeds}, 3% {word}"
                found.append(_setting(name, truth, parameters, EIGHT, n_seeds, 0.03, exponent))
        found.append(_setting(f"{truth}, 7 x 1, 3%", truth, parameters, SEVEN, 1, 0.03))
        shared = _setting(f"{truth}, 7 x 3, 3% + 3% shared by a seed's runs", truth, parameters, SEVEN, 3, 0.03)
        found.append(Setting(shared.name, shared.world, truth, seed_effect=0.03))
        tasks = _setting(f"{truth}, 7 x 3, 3%, 50 test tasks of 30%", truth, parameters, SEVEN, 3, 0.03)
        found.append(Setting(tasks.name, tasks.world, truth, n_test_tasks=50))
    for truth, fitted in (("power_floor", "power"), ("power", "power_floor")):
        right = _setting("", truth, TRUE_PARAMETERS[truth][""], SEVEN, 3, 0.03)
        found.append(Setting(f"WRONG: {fitted} fitted to {truth}, 7 x 3, 3%", right.world, fitted))
    return found


def measure(setting: Setting, n_sweeps: int, seed: int, n_bootstrap: int = 300) -> dict[str, Any]:
    """Coverage and median width of every interval for every parameter that the truth has too."""
    rng = stream(seed, "coverage", setting.name)
    counts: dict[str, dict[str, Count]] = {}
    truth = dict(zip(setting.world.form.parameters, setting.world.parameters, strict=True))
    for sweep in range(n_sweeps):
        table = _draw(setting, rng)
        for kind, intervals in _intervals(setting.fitted, table, n_bootstrap, sweep).items():
            for name, (low, high) in intervals.items():
                if name in truth and np.isfinite([low, high]).all():
                    count = counts.setdefault(name, {}).setdefault(kind, Count())
                    count.hits.append(bool(low <= truth[name] <= high))
                    count.widths.append(high - low)
    return {"n_sweeps": n_sweeps} | {n: {k: c.summary() for k, c in kinds.items()} for n, kinds in counts.items()}


def measure_predictions(truth: Truth, n_sweeps: int, seed: int, n_bootstrap: int = 200) -> dict[str, Any]:
    """Coverage of `Law.predict`, whatever the verdict chose, inside the data and at 2 and 4 times the largest N."""
    world = _setting("", truth, TRUE_PARAMETERS[truth][""], SEVEN, 3, 0.03).world
    rng, x = stream(seed, "predictions", truth), np.array([20.0, 200.0, 400.0, 800.0])
    hits = np.zeros(x.size)
    for _ in range(n_sweeps):
        predicted = fit_law(draw_table(world, rng), n_bootstrap=n_bootstrap).predict(x)
        hits += (predicted.low <= world.curve(x)) & (world.curve(x) <= predicted.high)
    return {"n_sweeps": n_sweeps} | {f"{n:g}": float(share) for n, share in zip(x, hits / n_sweeps, strict=True)}


def _intervals(fitted: str, table: LossTable, n: int, seed: int) -> dict[str, dict[str, tuple[float, float]]]:
    found = fit_candidate(FORMS[fitted], table, gather_levels(table), n, seed)
    assert found.draws is not None and found.draws.resampled is not None and found.draws.wild is not None
    kinds = {
        "ci95": found.interval,
        "resampled": found.intervals_of(found.draws.resampled),
        "wild": found.intervals_of(found.draws.wild),
    }
    return kinds | ({} if found.profile is None else {"profile": {"beta": found.profile}})


def _draw(setting: Setting, rng: np.random.Generator) -> LossTable:
    table = draw_table(setting.world, rng)
    n_seeds = setting.world.n_seeds
    per_seed = 1.0 + setting.seed_effect * rng.standard_normal(n_seeds)
    loss = table.loss * np.tile(per_seed, table.loss.size // n_seeds)
    if not setting.n_test_tasks:
        return LossTable(table.x, loss, table.group)
    # Task difficulty multiplies the loss everywhere and is the same in every row: common random numbers.
    difficulty = 1.0 + 0.3 * rng.standard_normal(setting.n_test_tasks)
    task_losses = loss[:, None] * difficulty
    return LossTable(table.x, task_losses.mean(axis=1), table.group, task_losses)


def _setting(
    name: str,
    truth: Truth,
    parameters: tuple[float, ...],
    levels: np.ndarray,
    n_seeds: int,
    noise: float,
    noise_exponent: float = 0.0,
) -> Setting:
    return Setting(name, World(truth, FORMS[truth], parameters, levels, n_seeds, noise, noise_exponent), truth)


def main(n_sweeps: int, seed: int) -> None:
    begin, results = time.perf_counter(), {}
    for setting in settings():
        found = results[setting.name] = measure(setting, n_sweeps, seed)
        shape = next(key for key in ("beta", "b") if key in found)
        cells = [
            f"{100 * v['coverage']:.1f} % ({v['median_width']:.3g})" if v else "–"
            for v in (found[shape].get(kind) for kind in ("ci95", "resampled", "wild", "profile"))
        ]
        others = ", ".join(f"{100 * found[k]['ci95']['coverage']:.1f} %" for k in ("a", "floor") if k in found)
        print(f"| {setting.name} | {' | '.join(cells)} | {others} |", flush=True)
    predictions = {truth: measure_predictions(truth, n_sweeps, seed) for truth in TRUE_PARAMETERS}
    for truth, row in predictions.items():
        print(f"| {truth} | " + " | ".join(f"{100 * row[n]:.1f} %" for n in ("20", "200", "400", "800")) + " |")
    print(f"{time.perf_counter() - begin:.0f} s")
    summary = {"seed": seed, "settings": results, "predictions": predictions}
    Path(f"results/law/coverage_seed{seed}.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=int, nargs="?", default=100, help="per setting")
    parser.add_argument("seed", type=int, nargs="?", default=SEED)
    given = parser.parse_args()
    main(given.sweeps, given.seed)
