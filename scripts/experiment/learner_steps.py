"""Inner steps from prototypes: how far they carry the pretrained start, protonet's, and one whose rates are learned.

    python scripts/experiment/learner_steps.py OUT data_dir=PATH/TO/banking77 [key=value …]

Banking77's first split at 1 shot, by the configuration of learners.py. The rate of each start and number of steps is
chosen on validation tasks, where it is not learned. Run again, it goes on where it was. Writes OUT/steps_NAME.csv
(queries right of each task's classes), OUT/steps_NAME.json (what was chosen), OUT/steps.json and prints the table.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learners import CONFIG, interval, read_queries, trained, validation_accuracy, write_queries

from reptile_scaling.config import Config, load_config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import evaluate, test_episodes, test_loop, validation_episodes
from reptile_scaling.learning.meta_state import MetaState, fresh_state
from reptile_scaling.learning.workbench import Workbench, open_corpus, open_workbench
from reptile_scaling.model.adapters import Adapters

COMMON: dict[str, Any] = {
    "class_split": "protaugment-01", "k_support": 1, "num_validation_tasks": 40, "num_meta_test_tasks": 100,
}  # fmt: skip
STARTS: dict[str, dict[str, Any]] = {
    "pretrained": {},
    "protonet": {},
    "fomaml_learned_rates": {
        "algorithm": "fomaml", "inner_rates": "learned", "inner_optimizer": "sign", "inner_lr": 1e-3, "k_inner": 5,
        "k_inner_test": 5,
    },
}  # fmt: skip
RATES = (3e-4, 1e-3, 3e-3)
STEPS = (1, 5, 10)
RIVAL = "pretrained"


def right(
    workbench: Workbench, theta: Adapters, part: str, steps: int, rate: float | None
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """`[tasks, n_way]`: how many of a class's queries are given its label after so many inner steps; and the tasks."""
    config = workbench.config
    episodes = test_episodes(workbench) if part == "test" else validation_episodes(workbench)
    loop = replace(test_loop(config), steps=steps, learning_rate=rate or config.inner_lr)
    predicted = evaluate(workbench.engine, theta, episodes, loop).predicted
    slots = np.repeat(np.arange(config.n_way), config.k_query)
    return (predicted == slots).reshape(len(episodes), config.n_way, config.k_query).sum(2), episodes


def measure(config: Config, name: str, out: Path) -> None:
    """Trains one start and reads it after every number of steps."""
    workbench = open_workbench(config, open_corpus(config), "cpu")

    def adapted_accuracy(workbench: Workbench, state: MetaState) -> float:
        correct, _ = right(workbench, state.initialisation, "validation", config.k_inner, None)
        return float(correct.mean()) / config.k_query

    seen: dict[str, float] = {}
    state = fresh_state(workbench, config.seeds[0])
    if name != "pretrained":
        is_learned = config.inner_rates == "learned"
        state, seen = trained(workbench, adapted_accuracy if is_learned else validation_accuracy)
    columns, chosen = {}, {}
    for steps in STEPS:
        rates: tuple[float | None, ...] = (None,) if config.inner_rates == "learned" else RATES
        tried = [right(workbench, state.initialisation, "validation", steps, rate)[0].mean() for rate in rates]
        rate = rates[int(np.argmax(tried))]
        columns[f"{steps} steps"], episodes = right(workbench, state.initialisation, "test", steps, rate)
        chosen[f"{steps} steps"] = {"inner_lr": rate, "validation_accuracy": [t / config.k_query for t in tried]}
        print(name, steps, rate, columns[f"{steps} steps"].mean() / config.k_query, file=sys.stderr, flush=True)
    write_queries(out / f"steps_{name}.csv", workbench, episodes, columns)
    facts = {"chosen_meta_step": state.meta_step, "validation_accuracy_by_meta_step": seen, "chosen": chosen}
    (out / f"steps_{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def summary(out: Path, k_query: int) -> list[dict[str, object]]:
    """Every start and number of steps, beside the pretrained start after as many."""
    rows: list[dict[str, object]] = []
    _, _, rival = read_queries([out / f"steps_{RIVAL}.csv"], k_query)
    for name in STARTS:
        tasks, classes, columns = read_queries([out / f"steps_{name}.csv"], k_query)
        for steps, points in columns.items():
            beyond = points - rival[steps]
            rows.append(
                {
                    "start": name, "steps": steps, "accuracy": round(float(points.mean()), 2),
                    "beyond_pretrained": round(float(beyond.mean()), 2), "ci95": interval(beyond, tasks, classes),
                }
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder for the tables")
    parser.add_argument("settings", metavar="key=value", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    out: Path = arguments.out
    try:
        base = load_config(CONFIG, tuple(arguments.settings))
        out.mkdir(parents=True, exist_ok=True)
        for name, settings in STARTS.items():
            if not (out / f"steps_{name}.json").is_file():
                measure(make_config({**base.model_dump(), **COMMON, **settings}), name, out)
    except InputError as error:
        parser.error(str(error))
    rows = summary(out, base.k_query)
    (out / "steps.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("| start | steps | accuracy | beyond the pretrained start | 95 % |\n|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['start']} | {r['steps']} | {r['accuracy']} | {r['beyond_pretrained']:+} | {r['ci95']} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
