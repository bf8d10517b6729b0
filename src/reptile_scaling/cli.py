"""Commands → the functions below; the only exit codes and console output.

Exit 0: all done; 2: bad input, one sentence on standard error; 3: some cells failed; 130: interrupted.
"""

import json
import logging
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from reptile_scaling.config import Config, load_config
from reptile_scaling.errors import InputError
from reptile_scaling.laws import Law, Transform
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.storage import csv_text, write_bytes

if TYPE_CHECKING:
    from reptile_scaling.lab.plan import Plan
    from reptile_scaling.use.labeller import Evaluation

RUN_FOLDER = Path("experiments_scaling_law")

app = typer.Typer(
    help="How does few-shot performance of a language model scale with the number of meta-training tasks?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)
errors = Console(highlight=False, stderr=True)

OutFolder = Annotated[Path, typer.Option("--out", help="Folder of the run; the same command resumes it.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="The base, where its folder has moved.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


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


@app.command()
def run(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The experiment; see configs/.")],
    out: OutFolder = RUN_FOLDER,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; YAML.")] = None,
    executor: Annotated[str | None, typer.Option("--executor", help="Where cohorts run: local or ray.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")] = False,
) -> None:
    """Run the sweep, or go on with it; ends with the fit and the report."""
    overrides = [*(set_ or []), *([f"executor={executor}"] if executor else [])]
    sys.exit(run_config(load_config(config_file, tuple(overrides)), out, dry_run=dry_run))


def run_config(config: Config, out: Path, *, dry_run: bool = False) -> int:
    """The whole job of `run`, for scripts too; returns the exit code."""
    from reptile_scaling.api import performed, show_plan
    from reptile_scaling.lab.plan import plan_sweep

    folder = RunDirectory(out)
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
def status(folder: Annotated[Path, typer.Argument(metavar="DIR")], as_json: JsonFlag = False) -> None:
    """Cells done, running, failed and pending, with reasons and ETA; reads the folder alone."""
    from reptile_scaling.lab.progress import (
        count_states,
        eta_seconds,
        is_stale,
        read_statuses,
        status_table,
        worker_lines,
    )

    run_folder = RunDirectory(folder)
    statuses = read_statuses(run_folder)
    failures = run_folder.read_baseline_failures()
    if as_json:
        cells = [{**asdict(cell), **asdict(cell_status)} for cell, cell_status in statuses]
        workers = [{**asdict(worker), "stale": is_stale(worker)} for worker in run_folder.read_workers()]
        found: dict[str, Any] = {**count_states(statuses), "eta_seconds": eta_seconds(statuses), "cells": cells}
        found |= {"workers": workers, "baselines_failed": failures}
        print(json.dumps(found))
        return
    console.print(status_table(statuses))
    for line in [*worker_lines(run_folder, statuses), *_baseline_failure_lines(failures)]:
        console.print(line, soft_wrap=True, markup=False)


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
    from reptile_scaling.analysis.law_of_run import read_losses
    from reptile_scaling.laws import compare_arms, fit_law, plan_levels
    from reptile_scaling.report.tables import answer_lines

    losses = read_losses(table, x, y, group)
    law = fit_law(losses, transform=transform)
    answers: dict[str, Any] = {}
    if at:
        answers["predictions"] = law.predict(np.array(at)).as_json()
    if target is not None:
        answers["tasks_needed"] = law.tasks_needed(target).as_json()
    if plan is not None:
        answers["plans"] = [proposal.as_json() for proposal in plan_levels(law, budget=plan)]
    if versus is not None:
        answers["comparison"] = compare_arms(losses, read_losses(versus, x, y, group)).as_json()
    if as_json:
        print(json.dumps({**law.as_json(), **answers}, allow_nan=False))
        return
    _print_law(law)
    for line in answer_lines(answers, law.table.x_symbol):
        console.print(line, soft_wrap=True, markup=False)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]) -> None:
    """Draw the figures and report.html again."""

    sys.exit(_conclude(RunDirectory(folder)))


@app.command()
def adapt(
    adapter: Annotated[Path, typer.Option("--adapter", metavar="DIR", help="The adapter/ folder of a finished cell.")],
    support: Annotated[Path, typer.Option("--support", metavar="FILE", help="Labelled texts: csv, jsonl or parquet.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the adapted model goes; a new folder.")],
    evaluate: Annotated[
        Path | None, typer.Option("--evaluate", metavar="FILE", help="Labelled texts to measure it on.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Inner steps; by default as evaluated.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", min=1e-9, help="Inner learning rate; as evaluated.")] = None,
    model: ModelOption = None,
) -> None:
    """Adapt a meta-trained initialisation to labels of one's own: any number of classes and shots."""
    from reptile_scaling.data.files import read_file
    from reptile_scaling.use.labeller import adapt_to_labels, check_truth

    labelled = read_file(support)
    held_out = _labelled_texts(evaluate) if evaluate else None
    if held_out:
        check_truth(held_out[1], labelled.class_names)
    for note in labelled.notes:
        errors.print(f"note: {note}", markup=False)
    with errors.status("loading the model and adapting"):
        began = time.perf_counter()
        labeller, done = adapt_to_labels(adapter, labelled, out, steps=steps, learning_rate=lr, model=model)
    console.print(
        f"{done.n_support} utterances of {len(labeller.labels)} labels, {done.steps} inner steps: support loss "
        f"{done.first_loss:.3f} → {done.last_loss:.3f} nats; {time.perf_counter() - began:.1f} s with loading.",
        soft_wrap=True,
    )
    console.print(
        f"Written to {out}/: label texts with `reptile-scaling predict --adapter {out}`.", soft_wrap=True, markup=False
    )
    if held_out:
        _print_evaluation(labeller.evaluate(*held_out), console)


@app.command()
def predict(
    adapter: Annotated[Path, typer.Option("--adapter", metavar="DIR", help="What `adapt` wrote.")],
    source: Annotated[
        str, typer.Option("--input", metavar="FILE|-", help="csv, jsonl or parquet with a text column; - reads lines.")
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write here, not to the screen.")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="The input has labels too: say how many agree.")] = False,
    model: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, with all probabilities.")] = False,
) -> None:
    """Label texts, with probabilities: CSV with text, label, probability."""
    from reptile_scaling.use.labeller import LabelledText, check_truth, open_labeller

    texts, truth = _texts_to_label(source, evaluate)
    with errors.status("loading the model and labelling"):
        labeller = open_labeller(adapter, model=model)
        if truth is not None:
            check_truth(truth, labeller.labels)
        probabilities = labeller.predict(texts)
    labelled = [
        LabelledText(text, labeller.labels[p.argmax()], round(float(p.max()), 6))
        for text, p in zip(texts, probabilities, strict=True)
    ]
    if as_json:
        all_of = [dict(zip(labeller.labels, p.tolist(), strict=True)) for p in probabilities]
        lines = [{**asdict(row), "probabilities": each} for row, each in zip(labelled, all_of, strict=True)]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    else:
        content = csv_text(LabelledText, labelled)
    if out is not None:
        write_bytes(out, content.encode())
    else:
        sys.stdout.write(content)
    if truth is not None:
        _print_evaluation(labeller.compare(probabilities, truth), errors)


def _labelled_texts(path: Path) -> tuple[list[str], list[str]]:
    from reptile_scaling.data.files import labels_of, read_table, texts_of

    table = read_table(path)
    return texts_of(table, str(path)), [label.strip() for label in labels_of(table, str(path))]


def _texts_to_label(source: str, with_labels: bool) -> tuple[list[str], list[str] | None]:
    from reptile_scaling.data.files import read_table, texts_of

    if source == "-":
        if with_labels:
            raise InputError("--evaluate needs labels, and --input - reads texts alone: give a table with both")
        try:
            content = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"--input - is not UTF-8 ({error.reason}): convert it, as with iconv") from error
        texts = [line for line in content.splitlines() if line.strip()]
        if not texts:
            raise InputError("--input - found no text on standard input: pipe in one text a line")
        return texts, None
    if with_labels:
        return _labelled_texts(Path(source))
    texts = texts_of(read_table(Path(source)), source)
    if not texts:
        raise InputError(f"{source} has no row: give at least one text")
    return texts, None


def _print_evaluation(found: "Evaluation", where: Console) -> None:
    low, high = found.accuracy_ci95
    where.print(
        f"accuracy {found.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) on {found.n} texts, "
        f"loss {found.loss:.3f} nats",
        soft_wrap=True,
    )
    for label, recall in found.recall.items():
        where.print(f"  {label}: recall {recall:.1%}", soft_wrap=True, markup=False)


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
    from reptile_scaling.analysis.standing import standing_sentence
    from reptile_scaling.analysis.training_facts import overtraining_sentence
    from reptile_scaling.lab.progress import count_states, read_statuses, status_table
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
    _print_law(law)
    for sentence in filter(None, (overtraining_sentence(folder, law), standing_sentence(folder))):
        console.print(sentence, soft_wrap=True, markup=False)
    for path in (folder.plot_path, folder.baseline_plot_path, folder.report_path):
        console.print(f"  {path}", soft_wrap=True)
    failures = folder.read_baseline_failures()
    if counts["failed"]:
        console.print(status_table([row for row in statuses if row[1].state == "failed"]))
    for line in _baseline_failure_lines(failures):
        console.print(line, soft_wrap=True, markup=False)
    return 3 if counts["failed"] or failures else 0


def _baseline_failure_lines(failures: dict[str, str]) -> list[str]:
    return [f"baseline {name} failed: {reason}" for name, reason in failures.items()]


def _print_law(law: Law) -> None:
    """The table of forms, then the verdict with its reasons."""
    from reptile_scaling.laws import verdict_sentence
    from reptile_scaling.report.tables import law_table

    console.print(law_table(law))
    console.print(verdict_sentence(law), style="bold", soft_wrap=True, markup=False)
    for reason in [*law.verdict.reasons, *law.warnings]:
        console.print(f"  - {reason}", soft_wrap=True, markup=False)
