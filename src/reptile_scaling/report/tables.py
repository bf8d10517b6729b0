"""Laws and results as tables for a terminal."""

from typing import Any

from rich.table import Table

from reptile_scaling.laws import Law
from reptile_scaling.runs.directory import RunDirectory


def results_table(run: RunDirectory) -> Table:
    """A row per finished cell."""
    table = Table(title="results on the shared test tasks of unseen classes", title_justify="left")
    config = run.config()
    for column in (
        "N_tasks" if config.axis == "n_tasks" else config.axis,
        "seed",
        "loss",
        "accuracy",
        "zero-step",
        "classes",
        "utterances",
        "tasks/s",
    ):
        table.add_column(column, justify="right")
    for r in run.results():
        table.add_row(
            str(r.axis_value or r.n_tasks),
            str(r.seed),
            f"{r.meta_test_loss:.3f}",
            f"{r.meta_test_accuracy:.1%}",
            f"{r.zero_step_accuracy:.1%}",
            str(r.distinct_classes),
            str(r.distinct_utterances),
            f"{r.tasks_per_second:.1f}",
        )
    return table


def law_table(law: Law) -> Table:
    """A row per form, R² last: it decides nothing."""
    table = Table(title="laws", title_justify="left")
    for column in ("form", "parameters [95 % interval]", "hold-out error", "weight", "R²"):
        table.add_column(column)
    for row in law_rows(law):
        table.add_row(*row)
    return table


def law_rows(law: Law) -> list[tuple[str, ...]]:
    """Form, parameters with intervals, hold-out error, weight and R² of each form as text."""
    return [
        (name, _parameters(form), *(_number(form[figure]) for figure in ("holdout_error", "weight", "r2")))
        if form["identified"]
        else (name, f"not identified: {form['reason']}", "", "", "")
        for name, form in law.as_json()["forms"].items()
    ]


def _parameters(form: dict[str, Any]) -> str:
    parts = []
    for parameter, interval in form["ci95"].items():
        shown = f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
        parts.append(f"{parameter} = {form[parameter]:.3g}{shown}")
    return "\n".join(parts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def answer_lines(answers: dict[str, Any], symbol: str) -> list[str]:
    """Predictions, plans and comparisons that were asked for, in lines; `symbol` is the letter of x."""
    lines = []
    if found := answers.get("predictions"):
        lines += [f"predicted by {found['form']}:", *(f"  {_point_line(point, symbol)}" for point in found["points"])]
        lines += [f"  {warning}" for warning in found["warnings"]]
    if found := answers.get("tasks_needed"):
        needed = "never reached" if found["x"] is None else f"{symbol} = {found['x']:.3g}"
        bounds = found["ci95"] or [None, None]
        low, high = ("none" if bound is None else f"{bound:.3g}" for bound in bounds)
        lines.append(f"for {found['target']:g}: {needed} (95 % interval {low} to {high}) by {found['form']}")
        lines += [f"  {warning}" for warning in found["warnings"]]
    for plan in answers.get("plans", []):
        runs = ", ".join(f"{n} × {seeds}" for n, seeds in zip(plan["levels"], plan["new_seeds"], strict=True))
        now = "unknown" if plan["beta_width_now"] is None else f"{plan['beta_width_now']:.2g}"
        lines.append(
            f"plan {plan['name']}: run {symbol} × seeds {runs}; width of the exponent's interval {now} → "
            f"{plan['beta_width']:.2g}; tells {plan['form']} from {plan['rival']} in {plan['decided']:.0%}"
        )
    if found := answers.get("comparison"):
        lines += ["second minus first:", *(f"  {_level_line(level, symbol)}" for level in found["levels"])]
        lines += [f"  exponent: {_with_interval(found['exponent'])}", *(f"  {w}" for w in found["warnings"])]
    return lines


def _level_line(level: dict[str, Any], symbol: str) -> str:
    return f"{symbol} = {level['x']:g}: {_with_interval(level)}"


def _with_interval(quantity: dict[str, Any]) -> str:
    if quantity["difference"] is None:
        return "not identified"
    interval = quantity["ci95"]
    return f"{quantity['difference']:+.3g}" + (f" [{interval[0]:+.3g}, {interval[1]:+.3g}]" if interval else "")


def _point_line(point: dict[str, Any], symbol: str) -> str:
    interval = point["ci95"]
    return f"{symbol} = {point['x']:g}: {point['value']:.3g}" + (
        f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
    )
