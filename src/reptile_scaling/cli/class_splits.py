"""What `run` and `report` do with several class splits."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reptile_scaling.cli.options import console
from reptile_scaling.cli.printing import print_law
from reptile_scaling.config import Config
from reptile_scaling.errors import InputError
from reptile_scaling.laws import Law
from reptile_scaling.runs.directory import RunDirectory

if TYPE_CHECKING:
    from reptile_scaling.lab.plan import Plan

Conclude = Callable[[RunDirectory], int]
"""Fit and report of one run; returns the exit code."""


def run_splits(config: Config, folder: RunDirectory, conclude: Conclude, *, dry_run: bool) -> int:
    """Every split's run in turn, then what they say together; returns the exit code."""
    from reptile_scaling.api import perform_splits
    from reptile_scaling.lab.class_splits import plan_splits

    plans = plan_splits(config, folder)
    if dry_run:
        _show_costs(plans, folder)
        return 0
    codes: list[int] = []
    try:
        law = perform_splits(config, plans, folder, console, lambda run: codes.append(conclude(run)))
    except KeyboardInterrupt:
        return 130
    return max([*codes, _print_together(folder, law)])


def report_splits(folder: RunDirectory, conclude: Conclude, *, tables: bool) -> int:
    """Every split's figures and page again, then those of all; returns the exit code."""
    from reptile_scaling.report.class_splits import write_pooled_report

    if tables:
        raise InputError(
            f"--tables is for one run, and {str(folder.path)!r} holds several class splits: give a split's folder in it"
        )
    codes = [conclude(run) for run in folder.split_runs().values()]
    return max([*codes, _print_together(folder, write_pooled_report(folder) if folder.pooled_results() else None)])


def _print_together(folder: RunDirectory, law: Law | None) -> int:
    """What the splits say together; the exit code."""
    from reptile_scaling.analysis.class_splits import missing_of_splits, pooled_sentence

    if law is None:
        console.print("No cell of any class split is done, so there is nothing to fit.")
        return 3
    console.print(f"All {len(folder.split_runs())} class splits together:")
    print_law(law)
    for sentence in filter(None, (pooled_sentence(folder), missing_of_splits(folder))):
        console.print(sentence, soft_wrap=True, markup=False)
    for path in (folder.plot_path, folder.report_path):
        console.print(f"  {path}", soft_wrap=True)
    return 0


def _show_costs(plans: "dict[str, Plan]", folder: RunDirectory) -> None:
    """Every split's plan and cost, then the sum: they are done in turn."""
    from reptile_scaling.analysis.progress import duration
    from reptile_scaling.api import show_plan
    from reptile_scaling.lab.class_splits import estimate_splits

    for name, plan in plans.items():
        console.print(f"Class split {name}:", soft_wrap=True, markup=False)
        show_plan(plan, console)
    try:
        with console.status("opening the model and timing two inner steps"):
            costs = estimate_splits(plans, folder)
    except InputError as error:
        console.print(f"no estimate of time and memory: {error}", soft_wrap=True, markup=False)
        return
    for name, cost in costs.items():
        console.print(f"Class split {name}: {cost.lines()[0]}", soft_wrap=True, markup=False)
    total = sum(cost.total_seconds for cost in costs.values())
    console.print(f"{len(costs)} class splits in turn: about {duration(total)}", soft_wrap=True)
    console.print(next(iter(costs.values())).memory, soft_wrap=True, markup=False)
