"""The experiment of docs/findings_version_01.md: all its parts on Banking77, and what `results/` keeps of them.

    python scripts/experiment/banking77.py RUNS RESULTS data_dir=PATH/TO/banking77 [key=value …]

Each part is the preset `banking77_smollm2` with some keys changed, in a folder of its own below RUNS; a part that was
cut goes on when the same command is given again. RESULTS gets tables of all cells of each part (part_tables.py).
Prompts know nothing of the parts and take the longest, so the main part alone measures them.
"""

import argparse
from pathlib import Path
from typing import Any

from part_tables import MAIN, pack
from rich.console import Console

from reptile_scaling.api import performed, show_plan
from reptile_scaling.config import Config, load_config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.report import write_report
from reptile_scaling.runs.directory import RunDirectory

CONFIG = MAIN
# 1000 visits of 25 support and 75 query utterances, once each, where Reptile passes 10 × 25.
JOINT = {
    "algorithm": "joint", "n_tasks_list": [1000], "num_meta_steps": 625, "eval_interval": 125, "meta_optimizer": "adam",
    "baselines": [],
}  # fmt: skip

# Name → the keys that differ.
PARTS: dict[str, dict[str, Any]] = {
    "": {},
    "_classes": {"axis": "n_classes", "axis_values": [5, 10, 15, 20, 25], "n_tasks_list": [200], "baselines": []},
    "_resampled": {"task_examples": "resampled", "n_tasks_list": [1, 4, 16, 200, 1000], "baselines": []},
    "_short": {"num_meta_steps": 25, "baselines": []},
    **{f"_joint_{rate:g}": {**JOINT, "meta_lr": rate} for rate in (3e-4, 1e-3, 3e-3)},
    "_classifier": {
        "head": "classifier", "n_tasks_list": [1, 4, 16, 50, 200, 1000], "seeds": [0, 1],
        "baselines": ["no_meta", "no_meta_tuned"],
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUNS", type=Path, help="a folder for the parts' runs")
    parser.add_argument("results", metavar="RESULTS", type=Path, help="what is to be kept of them")
    parser.add_argument("settings", metavar="key=value", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    try:
        cache = f"prefix_cache_dir={arguments.runs / 'cache'}"
        run_parts(load_config(CONFIG, (cache, *arguments.settings)), arguments.runs, arguments.results)
    except InputError as error:
        parser.error(str(error))


def run_parts(base: Config, runs: Path, results: Path) -> None:
    """Each part in turn, its report, and what is kept of it."""
    console = Console(highlight=False)
    for name, settings in PARTS.items():
        run = RunDirectory(runs / f"{CONFIG}{name}")
        plan = plan_sweep(make_config({**base.model_dump(), **settings}), run)
        show_plan(plan, console)
        with performed(plan, run, console):
            write_report(run)
        pack(run.path, results / run.path.name)


if __name__ == "__main__":
    main()
