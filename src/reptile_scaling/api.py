"""The experiment from Python: run it, or read what a folder holds, as tables and a law.

experiment = run_experiment("demo", "experiments_scaling_law")
experiment.results, experiment.sentence, experiment.law.predict(400.0)
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from reptile_scaling.analysis.class_splits import pooled_sentence
from reptile_scaling.analysis.law_of_run import law_of_run
from reptile_scaling.analysis.progress import read_statuses
from reptile_scaling.analysis.standing import standing_sentence
from reptile_scaling.config import Config, load_config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.interruption import StopRequested, graceful_stop
from reptile_scaling.lab.class_splits import begin_splits, plan_splits
from reptile_scaling.lab.plan import Plan, plan_sweep
from reptile_scaling.lab.progress import shown_progress
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.laws import Law, verdict_sentence
from reptile_scaling.report import write_report
from reptile_scaling.report.class_splits import write_pooled_report
from reptile_scaling.report.renewal import renewed_page
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.records import CellResult

BASELINE_COLUMNS = ["name", "label", "accuracy", "accuracy_std", "loss", "loss_std", "seconds_per_task"]


@dataclass(frozen=True)
class RunRecord:
    """What the folder of a run holds. A table is read when it is first asked for; `load_experiment` reads anew.

    Of several class splits the tables have a column `class_split` before the others, and the law and the standing are
    the pooled ones.
    """

    folder: Path

    @property
    def config(self) -> Config:
        """The configuration the folder was last run with."""
        return self._run.config()

    @cached_property
    def results(self) -> pd.DataFrame:
        """A row per finished cell; the columns of `final_result.json`, see docs/output_files.md."""
        columns = [field.name for field in fields(CellResult)]
        return self._gathered(lambda run: [asdict(result) for result in run.results()], columns)

    @cached_property
    def law(self) -> Law:
        """The law of the finished cells, for `predict`, `tasks_needed` and `as_json`; InputError where none is."""
        self._check_finished()
        return law_of_run(self._run)

    @cached_property
    def sentence(self) -> str:
        """The verdict in one sentence; InputError where no cell is finished."""
        return verdict_sentence(self.law)

    @cached_property
    def standing(self) -> str:
        """How the best level stands against the baselines; empty without any, InputError where no cell is finished."""
        self._check_finished()
        return pooled_sentence(self._run) if self._is_pooled else standing_sentence(self._run)

    @cached_property
    def baselines(self) -> pd.DataFrame:
        """A row per finished baseline, by name; `loss` is NaN where there is none."""
        found = self._gathered(lambda run: [asdict(b) for b in run.read_baselines().values()], BASELINE_COLUMNS)
        return found.set_index("name")

    @cached_property
    def learning_curves(self) -> pd.DataFrame:
        """A row per cell and evaluation on the validation tasks: `n_tasks`, `seed`, `meta_step`, loss, accuracies."""
        return self._gathered(
            lambda run: [
                {**asdict(cell), **asdict(row)} for cell in run.cells() for row in run.cell(cell).read_eval_stats()
            ]
        )

    @property
    def failures(self) -> dict[str, str]:
        """Why a cell or baseline failed, by its name; empty is what one wants to see."""
        return {
            f"{name}/{failed}" if self._is_pooled else failed: reason
            for name, run in self._runs.items()
            for failed, reason in _failures(run).items()
        }

    @property
    def _run(self) -> RunDirectory:
        return RunDirectory(self.folder)

    @property
    def _is_pooled(self) -> bool:
        return self.config.class_splits is not None

    @property
    def _runs(self) -> dict[str, RunDirectory]:
        """The run, or that of every class split that has begun, by name."""
        return self._run.split_runs() if self._is_pooled else {"": self._run}

    def _gathered(
        self, rows_of: Callable[[RunDirectory], list[dict[str, Any]]], columns: list[str] | None = None
    ) -> pd.DataFrame:
        """A table of all runs, with the class split of each row where there are several."""
        if not self._is_pooled:
            return pd.DataFrame(rows_of(self._run), columns=columns)
        rows = [{"class_split": name, **row} for name, run in self._runs.items() for row in rows_of(run)]
        return pd.DataFrame(rows, columns=["class_split", *columns] if columns else None)

    def _check_finished(self) -> None:
        if self.results.empty:
            raise InputError(
                f"folder {str(self.folder)!r} holds no finished cell, so there is nothing to fit: run its experiment "
                "to the end, and look at `failures`"
            )


def load_experiment(folder: str | Path) -> RunRecord:
    """What a run has written so far, finished or not. InputError where the folder holds no run."""
    RunDirectory(Path(folder)).experiment()
    return RunRecord(Path(folder))


def run_experiment(settings: Mapping[str, Any] | str | Path, folder: str | Path) -> RunRecord:
    """Runs an experiment in `folder`, or what is left of it, fits the law and draws the report.

    `settings` are the keys of docs/config.md as a dict, a YAML file of them, or a preset's name; a key that is not
    given keeps its default. Shows the progress that the command line shows. Cells that fail are named in `failures`,
    the others go on.

    Raises InputError for a value that cannot work, and KeyboardInterrupt when it is interrupted: all work is saved by
    then and the same call goes on with it.
    """
    config = load_config(settings) if isinstance(settings, str | Path) else make_config(dict(settings))
    run = RunDirectory(Path(folder))
    console = _console()
    if config.class_splits is None:
        plan = plan_sweep(config, run)
        show_plan(plan, console)
        with performed(plan, run, console):
            _report_finished(run)
    else:
        perform_splits(config, plan_splits(config, run), run, console, _report_finished)
    record = load_experiment(folder)
    for name, reason in record.failures.items():
        console.print(f"{name} failed: {reason}", soft_wrap=True, markup=False)
    return record


def _report_finished(run: RunDirectory) -> None:
    if run.results():
        write_report(run)


def _failures(run: RunDirectory) -> dict[str, str]:
    cells = {cell.name: status.reason for cell, status in read_statuses(run) if status.state == "failed"}
    return {**cells, **run.read_baseline_failures()}


def _console() -> Console:
    """A live table on a terminal, else plain lines. A notebook's stream calls itself a terminal and cannot redraw."""
    return Console(highlight=False, force_jupyter=False, force_terminal=False if Console().is_jupyter else None)


def show_plan(plan: Plan, console: Console) -> None:
    """The work in a few lines."""
    for line in plan.summary():
        console.print(line, soft_wrap=True, markup=False)


@contextmanager
def performed(plan: Plan, run: RunDirectory, console: Console) -> Iterator[None]:
    """Performs the plan and shows how far it is, then the block; no other process may use the folder meanwhile.

    An interruption is passed on once everything is saved, and the console says how to go on.
    """
    stop = threading.Event()
    with run.locked(), graceful_stop(stop):
        console.print(f"Writing to {run.path}/ (run the same command again to resume).", soft_wrap=True)
        try:
            with shown_progress(run, console), renewed_page(run, console):
                run_sweep(plan, run, stop)
        except StopRequested:
            if run.report_path.exists() and run.results():
                write_report(run)  # the page of a run that stands still does not wait for more
            console.print(f"Stopped after its last step, which is saved in {run.path}/: run the same command to go on.")
            raise
        except KeyboardInterrupt:
            console.print(f"Stopped at once. Checkpoints are in {run.path}/: run the same command to go on from them.")
            raise
        yield


def perform_splits(
    config: Config,
    plans: dict[str, Plan],
    folder: RunDirectory,
    console: Console,
    conclude: Callable[[RunDirectory], object],
) -> Law | None:
    """Performs the plan of every class split in turn and concludes it; from the second on what they say together is
    written anew. The last law of all, None where no cell is done. No other process may use the folder meanwhile.

    An interruption is passed on as by `performed`; splits that were not reached begin next time.
    """
    law = None
    with folder.locked():
        begin_splits(config, plans, folder)
        for place, (name, plan) in enumerate(plans.items(), 1):
            console.print(f"Class split {place} of {len(plans)}, {name}:", soft_wrap=True, markup=False)
            show_plan(plan, console)
            run = folder.split_run(name)
            with performed(plan, run, console):
                conclude(run)
            if place > 1 and folder.pooled_results():
                law = write_pooled_report(folder)
    return law
