"""How often 95 % intervals cover the truth: `python scripts/law/coverage.py [sweeps per setting] [seed] [target]`.

Prints one line per setting and writes results/law/coverage.json
(with another seed, results/law/coverage_seed<seed>.json); `target` keeps to the right form on 7 levels × 3 seeds.
About 0.1 s a sweep on one slow core.
`right` settings fit the form that made the data; `wrong` ones another, to show what a confident mistake looks like.
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
from reptile_scaling.laws.table import LossTable, gather_levels
from reptile_scaling.laws.worlds import Truth, World, draw_table
from reptile_scaling.randomness import stream

SEED = 4
TARGET_NAMES = tuple(f"{truth}, 7 x 3, {noise}%" for truth in ("power", "power_floor") for noise in (1, 3, 5))
SEVEN = np.array([2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0])
SIX = np.array([2.0, 5.0, 10.0, 30.0, 80.0, 200.0])
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
    """Seven levels × three seeds at three noises, then fewer and more of both, then what breaks the assumptions."""
    found = []
    for truth, variants in TRUE_PARAMETERS.items():
        for variant, parameters in variants.items():
            for noise in (0.01, 0.03, 0.05):
                found.append(_setting(f"{variant}{truth}, 7 x 3, {noise:.0%}", truth, parameters, SEVEN, 3, noise))
        parameters = variants[""]
        found.append(_setting(f"{truth}, 7 x 1, 3%", truth, parameters, SEVEN, 1, 0.03))
        found.append(_setting(f"{truth}, 6 x 2, 5%", truth, parameters, SIX, 2, 0.05))
        shared = _setting(f"{truth}, 7 x 3, 3% + 3% shared by a seed's runs", truth, parameters, SEVEN, 3, 0.03)
        found.append(Setting(shared.name, shared.world, truth, seed_effect=0.03))
        tasks = _setting(f"{truth}, 7 x 3, 3%, 50 test tasks of 30%", truth, parameters, SEVEN, 3, 0.03)
        found.append(Setting(tasks.name, tasks.world, truth, n_test_tasks=50))
    for truth, fitted in (("power_floor", "power"), ("log_linear", "power"), ("power", "power_floor")):
        right = _setting("", truth, TRUE_PARAMETERS[truth][""], SEVEN, 3, 0.03)
        found.append(Setting(f"WRONG: {fitted} fitted to {truth}, 7 x 3, 3%", right.world, fitted))
    four = _setting("", "power_floor", (2.0, 0.5, 0.7), SEVEN[[0, 2, 4, 6]], 3, 0.03)
    found.append(Setting("WRONG: power fitted to power_floor, 4 x 3, 3%", four.world, "power"))
    return found


def measure(setting: Setting, n_sweeps: int, seed: int, n_bootstrap: int = 400) -> dict[str, Any]:
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
    name: str, truth: Truth, parameters: tuple[float, ...], levels: np.ndarray, n_seeds: int, noise: float
) -> Setting:
    return Setting(name, World(truth, FORMS[truth], parameters, levels, n_seeds, noise), truth)


def main(n_sweeps: int, seed: int, *, only_target: bool) -> None:
    begin, results = time.perf_counter(), {}
    for setting in settings():
        if only_target and (setting.name.startswith("WRONG") or not setting.name.endswith(TARGET_NAMES)):
            continue
        results[setting.name] = measure(setting, n_sweeps, seed)
        parts = [
            f"{name}: " + " ".join(f"{kind} {v['coverage']:.3f} ({v['median_width']:.3g})" for kind, v in kinds.items())
            for name, kinds in results[setting.name].items()
            if isinstance(kinds, dict)
        ]
        print(f"{setting.name:58} {' | '.join(parts)}", flush=True)
    truths = () if only_target else TRUE_PARAMETERS
    predictions = {truth: measure_predictions(truth, n_sweeps, seed) for truth in truths}
    for truth, row in predictions.items():
        print(f"prediction in {truth} at N = 20, 200, 400, 800: {row}")
    print(f"{time.perf_counter() - begin:.0f} s")
    summary = {"seed": seed, "settings": results, "predictions": predictions}
    Path(f"results/law/coverage{'' if seed == SEED else f'_seed{seed}'}.json").write_text(
        json.dumps(summary, indent=1) + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=int, nargs="?", default=200, help="per setting")
    parser.add_argument("seed", type=int, nargs="?", default=SEED)
    parser.add_argument("target", choices=["target"], nargs="?", help="the right form on 7 levels × 3 seeds alone")
    given = parser.parse_args()
    main(given.sweeps, given.seed, only_target=given.target is not None)
