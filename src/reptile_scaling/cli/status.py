"""The command that says where a run stands."""

import json
from dataclasses import asdict
from typing import Any

import typer

from reptile_scaling.cli.options import JsonFlag, RunFolder, console
from reptile_scaling.cli.printing import baseline_failure_lines
from reptile_scaling.runs.directory import RunDirectory

app = typer.Typer()


@app.command()
def status(folder: RunFolder, as_json: JsonFlag = False) -> None:
    """Cells done, running, failed and pending, with reasons and ETA; reads the folder alone."""
    run = RunDirectory(folder)
    if run.config().class_splits is not None:
        _status_of_splits(run, as_json)
    elif as_json:
        print(json.dumps(_as_json(run)))
    else:
        _show(run)


def _status_of_splits(folder: RunDirectory, as_json: bool) -> None:
    """That of every class split that has begun, by its name; of the others that they have not."""
    runs = folder.split_runs()
    waiting = [name for name in folder.config().split_configs if name not in runs]
    if as_json:
        print(json.dumps({"class_splits": {name: _as_json(run) for name, run in runs.items()}, "not_begun": waiting}))
        return
    for name, run in runs.items():
        console.print(f"Class split {name}:", soft_wrap=True, markup=False)
        _show(run)
    if waiting:
        console.print(f"Class splits not begun: {', '.join(waiting)}", soft_wrap=True, markup=False)


def _as_json(run: RunDirectory) -> dict[str, Any]:
    from reptile_scaling.lab.progress import count_states, eta_seconds, is_stale, read_statuses

    statuses = read_statuses(run)
    left = run.read_baselines_left().values()
    return {
        **count_states(statuses),
        "eta_seconds": eta_seconds(statuses),
        "cells": [{**asdict(cell), **asdict(cell_status)} for cell, cell_status in statuses],
        "workers": [{**asdict(worker), "stale": is_stale(worker)} for worker in run.read_workers()],
        "baselines_left": [{**asdict(baseline), "seconds_left": baseline.seconds_left} for baseline in left],
        "baselines_failed": run.read_baseline_failures(),
        "trackers_failed": run.tracker_failures(),
    }


def _show(run: RunDirectory) -> None:
    from reptile_scaling.lab.progress import (
        baselines_line,
        filling_lines,
        read_statuses,
        status_table,
        tracker_failure_lines,
        worker_lines,
    )

    statuses = read_statuses(run)
    console.print(status_table(statuses))
    working = [baselines_line(run), *filling_lines(run), *worker_lines(run, statuses)]
    for line in [
        *working,
        *baseline_failure_lines(run.read_baseline_failures()),
        *tracker_failure_lines(run.tracker_failures()),
    ]:
        console.print(line, soft_wrap=True, markup=False)
