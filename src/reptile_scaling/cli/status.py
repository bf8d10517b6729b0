"""The command that says where a run stands."""

import json
import signal
from dataclasses import asdict
from typing import Annotated, Any

import typer

from reptile_scaling.cli.options import JsonFlag, RunFolder, console
from reptile_scaling.cli.printing import baseline_failure_lines
from reptile_scaling.errors import InputError
from reptile_scaling.interruption import SIGNALS
from reptile_scaling.runs.directory import RunDirectory

app = typer.Typer()


@app.command()
def status(
    folder: RunFolder,
    as_json: JsonFlag = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="As a page that renews itself, for a browser, until Ctrl-C.")
    ] = False,
    host: Annotated[
        str, typer.Option("--host", help="With --serve: the address to serve at; by default this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="With --serve: its port; 0 takes any that is free.")
    ] = 8017,
) -> None:
    """Cells done, running, failed and pending, with reasons and ETA; reads the folder alone."""
    run = RunDirectory(folder)
    several = run.config().class_splits is not None
    if serve:
        if as_json:
            raise InputError("--json prints once and --serve goes on: give one of them")
        _serve(run, host, port)
    elif several:
        _status_of_splits(run, as_json)
    elif as_json:
        print(json.dumps(_as_json(run)))
    else:
        _show(run)


def _serve(run: RunDirectory, host: str, port: int) -> None:
    from reptile_scaling.report.live import live_routes
    from reptile_scaling.report.server import PageServer

    with PageServer(live_routes(run), host, port) as server:
        whom = "" if server.is_for_this_machine else " Whoever reaches this address can read it."
        for number in SIGNALS:  # explicitly: what a shell starts in the background is told to ignore Ctrl-C
            signal.signal(number, signal.default_int_handler)
        console.print(f"{server.address} shows {run.path}, read only.{whom} Ctrl-C ends it.", soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("No longer served.")


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
    from reptile_scaling.analysis.progress import count_states, eta_seconds, is_stale, read_statuses

    statuses = read_statuses(run)
    left = run.read_baselines_left().values()
    return {
        **count_states(statuses),
        "eta_seconds": eta_seconds(statuses),
        "cells": [{**asdict(cell), **asdict(cell_status)} for cell, cell_status in statuses],
        "workers": [{**asdict(worker), "stale": is_stale(worker)} for worker in run.read_workers()],
        "baselines_left": [{**asdict(baseline), "seconds_left": baseline.seconds_left} for baseline in left],
        "baselines_failed": run.read_baseline_failures(),
    }


def _show(run: RunDirectory) -> None:
    from reptile_scaling.analysis.progress import baselines_line, filling_lines, read_statuses, worker_lines
    from reptile_scaling.lab.progress import status_table

    statuses = read_statuses(run)
    console.print(status_table(statuses))
    working = [baselines_line(run), *filling_lines(run), *worker_lines(run, statuses)]
    for line in [*working, *baseline_failure_lines(run.read_baseline_failures())]:
        console.print(line, soft_wrap=True, markup=False)
