"""Algorithms × heads and baselines on the same test tasks, the same budget for all, rates chosen on validation classes.

    python scripts/experiment/methods.py OUT data_dir=PATH/TO/banking77 [key=value …]

Each method trains at every rate listed for it, in a folder of its own below OUT (run again, it goes on); the rate of
lowest validation loss counts, and its test accuracy stands beside that of Reptile with a meta-learned head, paired
over the test tasks. The budget is the utterances that pass forward and backward through the model, those of the query
sets and of Hessian-vector products (two passes each) included. Prints a table, writes OUT/methods.json.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.analysis.paired import TaskClasses, paired_gain
from reptile_scaling.analysis.standing import classes_of_tests, initialisations_of, task_accuracies
from reptile_scaling.config import Config, load_config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.runs.directory import RunDirectory

CONFIG = "methods_banking77"
REFERENCE = "reptile, classifier"
FINE_TUNING = ("no_meta", "no_meta_tuned")  # baselines that start from the head, so once with every head
HEADS = ("classifier", "prototype", "label_words", "zero")  # the last two with Reptile and joint training alone
ADAM_RATES = (1e-3, 2e-3, 4e-3)
SGD_RATES = (1e-3, 2e-3, 4e-3)
OUTER_ADAM = {"meta_optimizer": "adam", "meta_lr": 1e-3}


def methods() -> dict[str, list[dict[str, Any]]]:
    """Name → the settings to choose from: three inner rates."""
    found: dict[str, list[dict[str, Any]]] = {}
    for head in HEADS:
        shapes: dict[str, dict[str, Any]] = {"reptile": {}, "joint": OUTER_ADAM}
        if head in ("classifier", "prototype"):
            # A second derivative of Adam's step is not defined where a gradient is zero.
            by_sgd = {**OUTER_ADAM, "inner_optimizer": "sgd"}
            shapes |= {"fomaml": OUTER_ADAM, "maml": by_sgd, "anil": by_sgd}
        for algorithm, settings in shapes.items():
            rates = SGD_RATES if "inner_optimizer" in settings else ADAM_RATES
            found[f"{algorithm}, {head}"] = [
                {"algorithm": algorithm, "head": head, "inner_lr": rate, **settings} for rate in rates
            ]
    return found


def passes_per_visit(config: Config) -> float:
    """Utterances that pass forward and backward through the model when a meta-step visits a task."""
    support, query = config.n_way * config.train_shots, config.n_way * config.k_query
    return {
        "reptile": config.k_inner * support,
        "fomaml": config.k_inner * support + query,
        "maml": 3 * config.k_inner * support + query,
        "anil": support + query,
        "joint": support + query,
    }[config.algorithm]


def meta_steps(base: Config, config: Config) -> int:
    """As many as pass the utterances that the base's pass."""
    return max(1, round(base.num_meta_steps * passes_per_visit(base) / passes_per_visit(config)))


def trained(base: Config, settings: dict[str, Any], out: Path) -> RunDirectory:
    """The cells of one choice, without baselines."""
    config = make_config({**base.model_dump(), **settings})
    steps = meta_steps(base, config)
    config = config.model_copy(update={"num_meta_steps": steps, "eval_interval": steps})
    run = RunDirectory(out)
    perform(config, (), run)
    return run


def perform(config: Config, baselines: tuple[str, ...] | None, run: RunDirectory) -> None:
    """What is left of a run's cells and of these baselines; None is all of them."""
    run_sweep(plan_sweep(config.model_copy(update={"baselines": baselines}), run), run)


def validation_loss(run: RunDirectory) -> float:
    """At the end, mean over the seeds; infinite where a cell failed."""
    if not all(run.cell(cell).is_done for cell in run.cells()):
        return float("inf")
    return float(np.mean([run.cell(cell).read_eval_stats()[-1].validation_loss for cell in run.cells()]))


def row(
    name: str,
    accuracies: np.ndarray,
    loss: float | None,
    reference: np.ndarray,
    classes: TaskClasses | None,
    **more: object,
) -> dict[str, Any]:
    """A method beside the reference, in points of accuracy with a 95 % interval."""
    gain = paired_gain(accuracies, reference, classes)
    return {
        "method": name, "accuracy": float(accuracies.mean()), "loss": loss,
        "points_beyond_reference": gain.points, "ci95_half_width": gain.half_width, **more,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder for all methods")
    parser.add_argument("settings", metavar="key=value", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    try:
        cache = f"prefix_cache_dir={arguments.out / 'cache'}"
        compare(load_config(CONFIG, (cache, *arguments.settings)), arguments.out)
    except InputError as error:
        parser.error(str(error))


def compare(base: Config, out: Path) -> None:
    """Trains and tests every method, prints the table, writes `methods.json`."""
    chosen: dict[str, tuple[RunDirectory, dict[str, Any]]] = {}
    validation: dict[str, dict[float, float]] = {}
    for name, choices in methods().items():
        runs = [trained(base, c, out / f"{name.replace(', ', '_')}_{i}") for i, c in enumerate(choices)]
        losses = [validation_loss(run) for run in runs]
        best = int(np.argmin(losses))
        chosen[name] = runs[best], choices[best]
        validation[name] = {c["inner_lr"]: loss for c, loss in zip(choices, losses, strict=True)}
        print(f"{name}: validation losses {[round(loss, 3) for loss in losses]}", file=sys.stderr, flush=True)
    reference_run = chosen[REFERENCE][0]
    perform(reference_run.config(), None, reference_run)
    reference = task_accuracies(reference_run, reference_run.cells())
    classes = classes_of_tests(reference_run)
    rows = []
    for name, (run, settings) in chosen.items():
        results = run.results()
        rows.append(
            row(
                name, task_accuracies(run, run.cells()), float(np.mean([r.meta_test_loss for r in results])), reference,
                classes,
                zero_step_accuracy=float(np.mean([r.zero_step_accuracy for r in results])),
                meta_steps=results[0].meta_steps, training_seconds=float(np.mean([r.wall_seconds for r in results])),
                settings=settings, validation_loss_by_inner_lr=validation[name],
            )
        )  # fmt: skip
    for head in HEADS:
        run = chosen[f"reptile, {head}"][0]
        perform(run.config(), FINE_TUNING, run)
        for baseline in run.read_baselines().values():
            own = f"{baseline.label}, {head}" if baseline.name in FINE_TUNING else baseline.label
            accuracies = initialisations_of(baseline)
            rows.append(
                row(own, accuracies, baseline.loss, reference, classes, seconds_per_task=baseline.seconds_per_task)
            )
    # Folders of one machine say nothing to a reader.
    shown = {k: v for k, v in base.model_dump(mode="json").items() if k not in ("data_dir", "prefix_cache_dir")}
    rows.sort(key=lambda r: -r["accuracy"])
    (out / "methods.json").write_text(
        json.dumps(
            {"config": shown, "reference": REFERENCE, "n_test_tasks": reference.shape[1], "rows": rows}, indent=1
        )
        + "\n"
    )
    print("| method | accuracy | loss | beyond Reptile, points |\n|---|---|---|---|")
    for r in rows:
        loss = "" if r["loss"] is None else f"{r['loss']:.3f}"
        beyond = f"{r['points_beyond_reference']:+.1f} ± {r['ci95_half_width']:.1f}"
        print(f"| {r['method']} | {r['accuracy']:.1%} | {loss} | {beyond} |")


if __name__ == "__main__":
    main()
