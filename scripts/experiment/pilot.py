"""Settings chosen on validation classes, one key after another, each with the best value of those before it.

    python scripts/experiment/pilot.py OUT CONFIG [key=value …]

Trains the largest level of CONFIG, with a seed that its experiment does not use, at every value of every key in KEYS,
and keeps the value of lowest validation loss at the end. Test tasks are not looked at. Each choice has a folder below
OUT (run again, it goes on). Prints a table, writes OUT/pilot.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from reptile_scaling.config import Config, load_config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory

KEYS: dict[str, tuple[Any, ...]] = {
    "head": ("classifier", "prototype", "label_words"),
    "inner_lr": (2e-3, 4e-3, 6e-3),
    "k_inner": (5, 10),
    "meta_lr": (0.2, 0.5, 1.0),
    "k_support_train": (5, 10),
}


def validation_curve(settings: dict[str, Any], out: Path) -> list[tuple[int, float, float]]:
    """(meta-step, loss in nats, accuracy) on the validation tasks; empty where the cell failed."""
    run = RunDirectory(out)
    run_sweep(plan_sweep(make_config(settings), run), run)
    (cell,) = run.cells()
    rows = run.cell(cell).read_eval_stats() if run.cell(cell).is_done else []
    return [(r.meta_step, r.validation_loss, r.validation_accuracy) for r in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder for all choices")
    parser.add_argument("config", metavar="CONFIG", help="as for `reptile-scaling run`")
    parser.add_argument("settings", metavar="key=value", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    try:
        cache = f"prefix_cache_dir={arguments.out / 'cache'}"
        choose(load_config(arguments.config, (cache, *arguments.settings)), arguments.out)
    except InputError as error:
        parser.error(str(error))


def choose(config: Config, out: Path) -> None:
    """Trains every choice, prints the table, writes `pilot.json`."""
    # One test task: the end of a cell reads them, and they are not to be looked at.
    kept: dict[str, Any] = {
        **config.model_dump(),
        "n_tasks_list": [max(config.n_tasks_list)], "seeds": [max(config.seeds) + 100], "num_meta_test_tasks": 1,
        "baselines": [],
    }  # fmt: skip
    tried = []
    for key, values in KEYS.items():
        curves = {}
        for value in values:
            settings = {**kept, key: value}
            curves[value] = validation_curve(settings, out / "_".join(str(settings[name]) for name in KEYS))
        ends = {value: curve[-1][1] if curve else float("inf") for value, curve in curves.items()}
        kept[key] = min(ends, key=lambda value: ends[value])
        for value, curve in curves.items():
            tried.append({"key": key, "value": value, "kept": value == kept[key], "validation": curve})
            end = f"{curve[-1][1]:.4f} | {curve[-1][2]:.1%}" if curve else "failed | "
            print(f"| {key} | {value} | {end} | {'kept' if value == kept[key] else ''} |", flush=True)
    shown = {k: v for k, v in kept.items() if k not in ("data_dir", "prefix_cache_dir")}
    (out / "pilot.json").write_text(json.dumps({"tried": tried, "settings": shown}, indent=1) + "\n")


if __name__ == "__main__":
    main()
