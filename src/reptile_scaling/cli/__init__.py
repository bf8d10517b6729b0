"""Commands → the functions below; the only exit codes and console output.

Exit 0: all done; 2: bad input, one sentence on standard error; 3: some cells failed; 130: interrupted.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from reptile_scaling import __version__
from reptile_scaling.cli import adapters, class_splits, compare, presets, status
from reptile_scaling.cli.options import JsonFlag, OutFolder, RunFolder, console, errors
from reptile_scaling.cli.printing import baseline_failure_lines, print_law
from reptile_scaling.config import Config, load_config
from reptile_scaling.disk import CHECK_THE_DISK
from reptile_scaling.errors import InputError
from reptile_scaling.laws import Transform
from reptile_scaling.runs.directory import RunDirectory

if TYPE_CHECKING:
    from reptile_scaling.lab.plan import Plan

RUN_FOLDER = Path("experiments_scaling_law")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for commands in (presets.app, status.app, compare.app, adapters.app):
    app.add_typer(commands)


def main() -> None:
    """The console script: bad input becomes one sentence and exit code 2."""
    # transformers asks the network for nothing here, but its advice would fill the screen.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # What `storage` does not name: a folder that cannot be listed, a stale handle under somebody else's reader.
        place = f"{error.filename!r} " if error.filename else ""
        print(f"error: {place}{error.strerror or error}: {CHECK_THE_DISK}, then run it again", file=sys.stderr)
        sys.exit(2)


def _print_version(asked: bool | None) -> None:
    if asked:
        print(f"reptile-scaling {__version__}")
        raise typer.Exit


@app.callback()
def door(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = None,
) -> None:
    """How does few-shot performance of a language model scale with the number of meta-training tasks?"""


@app.command()
def run(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|PRESET",
            autocompletion=presets.complete_preset,
            help="The experiment: a YAML file, or a name from `presets`.",
        ),
    ],
    out: OutFolder = RUN_FOLDER,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; YAML.")] = None,
    executor: Annotated[str | None, typer.Option("--executor", help="Where cohorts run: local or ray.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")] = False,
) -> None:
    """Run the sweep, or go on with it; ends with the fit and the report."""
    overrides = [*(set_ or []), *([f"executor={executor}"] if executor else [])]
    sys.exit(run_config(load_config(config, tuple(overrides)), out, dry_run=dry_run))


def run_config(config: Config, out: Path, *, dry_run: bool = False) -> int:
    """The whole job of `run`, for scripts too; returns the exit code."""
    from reptile_scaling.api import performed, show_plan
    from reptile_scaling.lab.plan import plan_sweep

    folder = RunDirectory(out)
    if config.class_splits is not None:
        return class_splits.run_splits(config, folder, _conclude, dry_run=dry_run)
    plan = plan_sweep(config, folder)
    show_plan(plan, console)
    if dry_run:
        for line in _cost_lines(plan, folder):
            console.print(line, soft_wrap=True, markup=False)
        return 0
    try:
        with performed(plan, folder, console):
            return _conclude(folder)
    except KeyboardInterrupt:
        return 130


@app.command()
def fit(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv|DIR", help="A table, or the folder of a run.")],
    x: Annotated[str, typer.Option("--x", help="Column of the x-axis.")] = "n_tasks",
    y: Annotated[str, typer.Option("--y", help="Column of the loss.")] = "meta_test_loss",
    group: Annotated[str | None, typer.Option("--group", help="Column of the seed or group.")] = None,
    transform: Annotated[
        Transform, typer.Option("--transform", help="What y is; accuracies are fitted as errors.")
    ] = "loss",
    at: Annotated[list[float] | None, typer.Option("--at", help="Predict at this x, with an interval.")] = None,
    target: Annotated[float | None, typer.Option("--target", help="The x needed for this y.")] = None,
    plan: Annotated[
        int | None, typer.Option("--plan", metavar="RUNS", help="What to run next with so many runs.")
    ] = None,
    versus: Annotated[Path | None, typer.Option("--versus", help="A second table or run to compare with.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit a law with honest uncertainty to any table, or to a run; predict, plan and compare with it."""
    from reptile_scaling.analysis.beside import compare_losses
    from reptile_scaling.analysis.law_of_run import read_losses
    from reptile_scaling.laws import fit_law, plan_levels
    from reptile_scaling.report.tables import Answers, answer_lines

    losses = read_losses(table, x, y, group)
    law = fit_law(losses, transform=transform)
    answers = Answers(
        predictions=law.predict(np.array(at)) if at else None,
        tasks_needed=law.tasks_needed(target) if target is not None else None,
        plans=plan_levels(law, budget=plan) if plan is not None else None,
        comparison=compare_losses(table, versus, x, y, group) if versus is not None else None,
    )
    if as_json:
        print(json.dumps({**law.as_json(), **answers.as_json()}, allow_nan=False))
        return
    print_law(law)
    for line in answer_lines(answers, law.table.x_symbol):
        console.print(line, soft_wrap=True, markup=False)


@app.command()
def report(
    folder: RunFolder,
    tables: Annotated[
        bool, typer.Option("--tables", help="Also tables as Markdown and LaTeX, and figures as PDF, in DIR/paper/.")
    ] = False,
) -> None:
    """Draw the figures and report.html again."""
    run_folder = RunDirectory(folder)
    if run_folder.config().class_splits is not None:
        sys.exit(class_splits.report_splits(run_folder, _conclude, tables=tables))
    code = _conclude(run_folder)
    if tables and run_folder.results():
        from reptile_scaling.report.paper import write_paper

        for path in write_paper(run_folder):
            console.print(f"  {path}", soft_wrap=True)
    sys.exit(code)


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="A data set's name, or a csv/jsonl/parquet file.")] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Folder with a local copy.")] = None,
    n_way: Annotated[int, typer.Option("--n-way", min=2, help="Classes per task.")] = 5,
    class_split: Annotated[
        str | None, typer.Option("--class-split", help="As class_split in a config: a name, or {train: 0.6, …}.")
    ] = None,
) -> None:
    """What a data set holds: classes, utterances, distinct tasks, near-duplicates (across a class split, if given)."""
    from reptile_scaling.config import make_config, parse_override
    from reptile_scaling.data.class_split import split_classes
    from reptile_scaling.data.readers import READERS, load_dataset
    from reptile_scaling.report.data_table import data_lines

    if name is None:
        console.print(f"Data sets by name: {', '.join(READERS)}. Or give the path of a csv, jsonl or parquet file.")
        return
    dataset, split = load_dataset(name, data_dir), None
    if class_split is not None:
        settings = {"dataset": name, "data_dir": data_dir, "n_way": n_way}
        config = make_config({**settings, **dict([parse_override(f"class_split={class_split}")])})
        split = split_classes(dataset, config)
    for line in data_lines(dataset, n_way, split):
        console.print(line, soft_wrap=True, markup=False)


@app.command()
def check(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As model_name in a config.")],
    as_json: JsonFlag = False,
) -> None:
    """Compare the engine with the Hub's own forward of a model, frozen and with adapters; say which path serves it."""
    from reptile_scaling.config import make_config
    from reptile_scaling.model.backbone import Backbone, LoraShape
    from reptile_scaling.model.devices import choose_devices
    from reptile_scaling.model.loading import load_language_model

    config = make_config({"model_name": model})
    (device, *_) = choose_devices(("auto",))
    backbone = Backbone(load_language_model(config, device), LoraShape(config.lora_r, config.lora_alpha))
    if as_json:
        print(json.dumps({"model": model, **backbone.as_json()}))
        return
    console.print(f"{model}: {backbone.path}", markup=False)
    for attempt in backbone.attempts:
        console.print(f"  {attempt.words()}", soft_wrap=True, markup=False)
    if backbone.left_out:
        console.print(f"  no LoRA at {', '.join(sorted(backbone.left_out))}", soft_wrap=True, markup=False)


@app.command()
def bench(
    model: Annotated[str | None, typer.Option("--model", help="As model_name in a config.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="As dataset in a config.")] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Folder with a local copy.")] = None,
    full: Annotated[
        bool, typer.Option("--full/--quick", help="4 tasks × 5 steps, 3 times, a compiled peer; or 2 × 2 once.")
    ] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also over tasks per step and cells per cohort.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time the engine, sequential PEFT and the floor on the same work, in one run."""
    from reptile_scaling.bench.bench import FULL, QUICK, bench_work
    from reptile_scaling.bench.launches import count_launches
    from reptile_scaling.bench.scaling import bench_scaling
    from reptile_scaling.bench.table import bench_table, ratio_lines, scaling_table

    given = {"model_name": model, "dataset": dataset, "data_dir": data_dir}
    settings = {key: value for key, value in given.items() if value is not None}
    work = FULL if full else QUICK
    result = bench_work(settings, work, lambda line: errors.print(line, markup=False, soft_wrap=True))
    result["launches"] = count_launches()
    if sweep:
        result["scaling"] = bench_scaling(settings, repeats=work.repeats)
    if as_json:
        print(json.dumps(result))
        return
    console.print(bench_table(result))
    for line in ratio_lines(result):
        console.print(line, soft_wrap=True)
    if sweep:
        console.print(scaling_table(result["scaling"]))


def _cost_lines(plan: "Plan", folder: RunDirectory) -> list[str]:
    """Time and memory of what is left, or why they cannot be told here."""
    from reptile_scaling.lab.estimate import estimate_cost

    try:
        with console.status("opening the model and timing two inner steps"):
            return estimate_cost(plan, folder).lines()
    except InputError as error:
        return [f"no estimate of time and memory: {error}"]


def _conclude(folder: RunDirectory) -> int:
    """Fit, figures and page of what is done; says the verdict, the table and where everything is."""
    from reptile_scaling.analysis.progress import count_states, read_statuses
    from reptile_scaling.analysis.standing import standing_sentence
    from reptile_scaling.analysis.steps_worth import worth_sentence
    from reptile_scaling.analysis.training_facts import overtraining_sentence, selection_sentence, slots_sentence
    from reptile_scaling.lab.progress import status_table
    from reptile_scaling.report import write_report
    from reptile_scaling.report.tables import results_table

    statuses = read_statuses(folder)
    counts = count_states(statuses)
    if not counts["done"]:
        console.print(status_table(statuses))
        console.print("No cell is done, so there is nothing to fit.")
        return 3
    law = write_report(folder)
    console.print(results_table(folder))
    print_law(law)
    for sentence in filter(
        None,
        (
            slots_sentence(folder),
            overtraining_sentence(folder, law),
            selection_sentence(folder),
            standing_sentence(folder),
            worth_sentence(folder),
        ),
    ):
        console.print(sentence, soft_wrap=True, markup=False)
    for path in (folder.plot_path, folder.baseline_plot_path, folder.report_path):
        console.print(f"  {path}", soft_wrap=True)
    failures = folder.read_baseline_failures()
    if counts["failed"]:
        console.print(status_table([row for row in statuses if row[1].state == "failed"]))
    for line in baseline_failure_lines(failures):
        console.print(line, soft_wrap=True, markup=False)
    return 3 if counts["failed"] or failures else 0
