"""Laws and results as tables for a terminal."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

from rich.table import Table

from reptile_scaling.laws import Comparison, Law, Plan, Prediction, TasksNeeded
from reptile_scaling.laws.forms import FORMS
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
        "ECE",
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
            "" if r.calibration_error is None else f"{r.calibration_error:.1%}",
            f"{r.zero_step_accuracy:.1%}",
            str(r.distinct_classes),
            str(r.distinct_utterances),
            f"{r.tasks_per_second:.1f}",
        )
    return table


@dataclass(frozen=True)
class FormRow:
    """One form of a law, as people read it."""

    name: str
    parameters: tuple[str, ...]
    """Each with its 95 % interval; none where the form is not identified."""
    reason: str
    """Why it is not identified; empty where it is."""
    holdout_error: float | None = None
    weight: float | None = None
    r2: float | None = None

    def as_texts(self) -> tuple[str, ...]:
        """Form, parameters with intervals or why there are none, hold-out error, weight and R²."""
        told = f"not identified: {self.reason}" if self.reason else "\n".join(self.parameters)
        return (self.name, told, *map(_number, (self.holdout_error, self.weight, self.r2)))


@dataclass(frozen=True)
class Answers:
    """What a law was asked besides its verdict."""

    predictions: Prediction | None = None
    tasks_needed: TasksNeeded | None = None
    plans: tuple[Plan, ...] | None = None
    comparison: Comparison | None = None

    def as_json(self) -> dict[str, Any]:
        """What was asked, by name."""
        found: dict[str, Any] = {
            name: answer.as_json()
            for name, answer in (
                ("predictions", self.predictions),
                ("tasks_needed", self.tasks_needed),
                ("comparison", self.comparison),
            )
            if answer is not None
        }
        return found | ({"plans": [plan.as_json() for plan in self.plans]} if self.plans is not None else {})


def form_rows(law: Law) -> list[FormRow]:
    """A row per form of FORMS, in their order."""
    rows = []
    for name in FORMS:
        candidate = law.candidates.get(name)
        if candidate is None or not candidate.identified:
            rows.append(FormRow(name, (), law.why_unidentified(name)))
        else:
            told = tuple(f"{key} = {value:.3g}{_interval(candidate.interval.get(key))}" for key, value in
                         candidate.parameters.items())  # fmt: skip
            rows.append(FormRow(name, told, "", candidate.holdout_error, candidate.weight, candidate.r2))
    return rows


def law_table(law: Law) -> Table:
    """A row per form, R² last: it decides nothing."""
    table = Table(title="laws", title_justify="left")
    for column in ("form", "parameters [95 % interval]", "hold-out error", "weight", "R²"):
        table.add_column(column)
    for row in form_rows(law):
        table.add_row(*row.as_texts())
    return table


def answer_lines(answers: Answers, symbol: str) -> list[str]:
    """Predictions, plans and comparisons that were asked for, in lines; `symbol` is the letter of x."""
    lines = []
    if (found := answers.predictions) is not None:
        points = zip(found.x, found.value, found.low, found.high, strict=True)
        lines += [f"predicted by {found.form}:"]
        lines += [f"  {symbol} = {x:g}: {value:.3g}{_interval((low, high))}" for x, value, low, high in points]
        lines += [f"  {warning}" for warning in found.warnings]
    if (needed := answers.tasks_needed) is not None:
        x = f"{symbol} = {needed.x:.3g}" if isfinite(needed.x) else "never reached"
        low, high = (f"{bound:.3g}" if isfinite(bound) else "none" for bound in (needed.low, needed.high))
        lines.append(f"for {needed.target:g}: {x} (95 % interval {low} to {high}) by {needed.form}")
        lines += [f"  {warning}" for warning in needed.warnings]
    for plan in answers.plans or ():
        runs = ", ".join(f"{n} × {seeds}" for n, seeds in zip(plan.levels, plan.new_seeds, strict=True))
        now = "unknown" if plan.beta_width_now is None else f"{plan.beta_width_now:.2g}"
        lines.append(
            f"plan {plan.name}: run {symbol} × seeds {runs}; width of the exponent's interval {now} → "
            f"{plan.beta_width:.2g}; tells {plan.form} from {plan.rival} in {plan.decided:.0%}"
        )
    if (compared := answers.comparison) is not None:
        gaps = zip(compared.x, compared.difference, compared.low, compared.high, strict=True)
        lines.append("second minus first:")
        lines += [f"  {symbol} = {x:g}: {_gap(float(gap), (low, high))}" for x, gap, low, high in gaps]
        lines.append(f"  exponent: {_gap(compared.exponent_difference, compared.exponent_interval)}")
        lines += [f"  {warning}" for warning in compared.warnings]
    return lines


def _gap(difference: float | None, interval: tuple[float, float] | None) -> str:
    if difference is None:
        return "not identified"
    return f"{difference:+.3g}{_interval(interval, '+.3g')}"


def _interval(ends: tuple[float, float] | None, spec: str = ".3g") -> str:
    """` [low, high]`; nothing where there is no interval."""
    if ends is None or not all(isfinite(end) for end in ends):
        return ""
    return f" [{ends[0]:{spec}}, {ends[1]:{spec}}]"


def _number(value: float | None) -> str:
    return "" if value is None or not isfinite(value) else f"{value:.3g}"
