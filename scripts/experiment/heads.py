"""What a task's first head is worth without meta-training: fine-tuning from the pretrained start under each head.

    python scripts/experiment/heads.py OUT.json [KEY=VALUE …]      e.g. data_dir=…
    python scripts/experiment/heads.py OUT.json --print            the table of what stands there

Preset banking77_smollm2 at 1 and 5 shots: for each head and number of inner steps the rate is chosen on validation
tasks, the number of steps likewise; read are test tasks, the same for all. Beside them what reads frozen features
alone. Differences are paired, with 95 % intervals over test classes and tasks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.analysis.paired import paired_gain
from reptile_scaling.baselines import BASELINES
from reptile_scaling.config import load_config
from reptile_scaling.lab.provenance import software_versions
from reptile_scaling.learning.budget import Start
from reptile_scaling.learning.curve import measure_curve
from reptile_scaling.learning.evaluation import test_episodes
from reptile_scaling.learning.workbench import fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.storage import write_json

SHOTS = (1, 5)
HEADS = ("classifier", "prototype", "cosine", "label_words", "words_prototype")
RIVAL = "label_words"
FROZEN = ("nearest_mean", "logistic_regression")
STEPS = (1, 5)
N_TEST, N_VALIDATION = 60, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", default=[])
    parser.add_argument("--print", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    if not asked.print:
        found = {}
        for shots in SHOTS:
            found[f"{shots} shots"] = measured(shots, asked.settings)
            write_json(asked.out, {"heads": found, "versions": software_versions()})
    print(table(json.loads(asked.out.read_text())))


def measured(shots: int, settings: list[str]) -> dict[str, Any]:
    """Of every head: accuracy and loss at each number of steps, and at the one that validation tasks choose."""
    n_tasks = [f"num_meta_test_tasks={N_TEST}", f"num_validation_tasks={N_VALIDATION}"]
    own = [f"k_support={shots}", *n_tasks, f"curve_steps={list(STEPS)}", *settings]
    accuracies: dict[str, dict[str, np.ndarray]] = {}
    losses: dict[str, dict[str, float]] = {}
    for head in HEADS:
        config = load_config("banking77_smollm2", (*own, f"head={head}"))
        workbench = open_workbench(config, open_corpus(config), "cpu")
        curve = measure_curve(workbench, Start(fresh_initialisation(workbench, 0)))
        read = {str(steps): reading for steps, reading in curve.by_steps.items()}
        read["best"] = curve.by_steps[curve.budget.best_steps]
        accuracies[head] = {steps: reading.accuracy for steps, reading in read.items()}
        losses[head] = {steps: float(reading.loss.mean()) for steps, reading in read.items()}
        print(head, {steps: round(100 * float(own.mean()), 1) for steps, own in accuracies[head].items()}, flush=True)
    episodes = test_episodes(workbench)
    names = workbench.corpus.dataset.class_names
    classes = tuple(tuple(names[c] for c in episode.classes) for episode in episodes)
    for name in FROZEN:
        scores = BASELINES[name].measure(workbench, episodes, Path(), lambda done, of: None)
        accuracies[name] = {"0": scores.accuracy, "best": scores.accuracy}
        losses[name] = {}
    rows = {}
    for name, by_steps in accuracies.items():
        rows[name] = {
            steps: {
                "accuracy": float(accuracy.mean()),
                "loss": losses[name].get(steps),
                **gain(accuracy, accuracies[RIVAL][steps], classes),
            }
            for steps, accuracy in by_steps.items()
        }
    return rows


def gain(ours: np.ndarray, theirs: np.ndarray, classes: tuple[tuple[str, ...], ...]) -> dict[str, float]:
    """Points beyond the rival at as many steps."""
    found = paired_gain(ours[None], theirs[None], classes)
    return {"points": found.points, "half_width": found.half_width}


def table(found: dict[str, Any]) -> str:
    """Accuracies in percent, and points beyond the rival at the numbers of steps that validation tasks choose."""
    steps = ("0", "1", "5", "best")
    columns = " | ".join(n if n == "best" else f"{n} steps" for n in steps)
    lines = [
        f"| shots | first head | {columns} | beyond {RIVAL}, best |",
        "|---" * (len(steps) + 3) + "|",
    ]
    for shots, rows in found["heads"].items():
        for name, by_steps in rows.items():
            own = [f"{100 * by_steps[n]['accuracy']:.1f}" if n in by_steps else "" for n in steps]
            best = by_steps["best"]
            beyond = "" if name == RIVAL else f"{best['points']:+.1f} ± {best['half_width']:.1f}"
            lines.append(f"| {shots.split()[0]} | {name} | {' | '.join(own)} | {beyond} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
