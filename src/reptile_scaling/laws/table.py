"""What a law is fitted to: rows of (x, loss, seed), on the scale where forms fall."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from reptile_scaling.errors import InputError

Transform = Literal["loss", "error_rate", "logit_accuracy"]
TRANSFORMS: tuple[Transform, ...] = ("loss", "error_rate", "logit_accuracy")


@dataclass(frozen=True)
class LossTable:
    """Rows of a sweep: `x[rows]` (above 0), `loss[rows]` (y, finite) and the seed of each row in `group`.

    `task_losses[rows, test_tasks]` are the losses of each test task; its columns are the same tasks in every
    row (common random numbers). `x_name` is what x is in a sentence, `x_symbol` its letter. `dropped` says which
    rows of the source are not here, and why. `task_classes` are the classes of each test task: intervals then draw
    classes and tasks, crossed. `n_queries` is how many answers an accuracy is the mean of.
    """

    x: Float[np.ndarray, " rows"]
    loss: Float[np.ndarray, " rows"]
    group: tuple[str, ...] | None = None
    task_losses: Float[np.ndarray, "rows tasks"] | None = None
    y_name: str = "loss"
    x_name: str = "n_tasks"
    x_symbol: str = "N"
    dropped: tuple[str, ...] = ()
    task_classes: tuple[tuple[str, ...], ...] | None = None
    n_queries: int | None = None

    def __post_init__(self) -> None:
        """Raises InputError for what no fit can use: no rows, x ≤ 0, values that are not finite, ragged columns."""
        if self.x.size == 0:
            reason = f" ({'; '.join(self.dropped)})" if self.dropped else ""
            raise InputError(f"the table has 0 usable rows{reason}: give at least one row with a finite {self.y_name}.")
        if self.x.shape != self.loss.shape:
            raise InputError(
                f"{self.x.size} values of {self.x_name}, {self.loss.size} of {self.y_name}: give one of each per row."
            )
        _require_positive(self.x, self.x_name)
        if not np.isfinite(self.loss).all():
            bad = self.loss[~np.isfinite(self.loss)][0]
            raise InputError(f"{self.y_name} = {bad} is not a number a law can use: drop that row.")
        for name, column in (("group", self.group), ("task_losses", self.task_losses)):
            if column is not None and len(column) != self.loss.size:
                raise InputError(f"{len(column)} rows of {name} for {self.loss.size} rows: give one per row.")
        if self.task_classes is not None and self.task_losses is not None:
            lists, tasks = len(self.task_classes), self.task_losses.shape[1]
            if lists != tasks:
                raise InputError(f"{lists} lists of classes for {tasks} test tasks: give one for each task.")


def table_from_frame(frame: pd.DataFrame, x: str, y: str, group: str | None = None) -> LossTable:
    """A LossTable of columns `x`, `y` and, where given, `group`; rows without a finite x and y are dropped and named.

    Raises InputError for a missing column, text where a number should be, x ≤ 0.
    """
    for column in (x, y) if group is None else (x, y, group):
        if column not in frame.columns:
            raise InputError(
                f"column '{column}' is not in the table: choose one of {', '.join(map(str, frame.columns))}."
            )
    values, loss = _numbers(frame, x), _numbers(frame, y)
    keep = np.isfinite(values) & np.isfinite(loss)
    dropped = tuple(f"row {row}: {x} = {values[row]}, {y} = {loss[row]} is not finite" for row in np.flatnonzero(~keep))
    groups = None if group is None else tuple(str(value) for value in frame[group].to_numpy()[keep])
    symbol = "N" if x == "n_tasks" else x
    return LossTable(values[keep], loss[keep], groups, None, y, x, symbol, dropped)


def transformed(table: LossTable, transform: Transform) -> LossTable:
    """The table on the scale the forms fall on: the loss itself, 1 − accuracy, or the odds of an error.

    A straight line of logit accuracy over log N *is* a power law of the odds (1 − accuracy) / accuracy, so the
    same forms serve losses and accuracies. With `n_queries`, error rates are (wrong + ½) / (n + 1), which have odds
    even where all are right (Haldane 1956, Anscombe 1956); without it rows of 1 or 0 are dropped and named.
    """
    if transform not in TRANSFORMS:
        raise InputError(f"transform = '{transform}' is unknown: choose one of {', '.join(TRANSFORMS)}.")
    if transform == "loss":
        return table
    outside = table.loss[(table.loss < 0) | (table.loss > 1)]
    if outside.size:
        raise InputError(f"{table.y_name} = {outside[0]:g} is not an accuracy between 0 and 1: use transform 'loss'.")
    per_task = None if table.task_losses is None else 1.0 - table.task_losses
    errors = replace(table, loss=_error_rate(table), task_losses=per_task)
    if transform == "error_rate":
        return errors
    return _odds(errors)


def to_scale(value: Float[np.ndarray, " *any"], transform: Transform) -> Float[np.ndarray, " *any"]:
    """A value in the table's own unit on the scale of the fit; accuracies of 0 have infinite odds."""
    if transform == "loss":
        return value
    with np.errstate(divide="ignore"):
        return 1.0 - value if transform == "error_rate" else (1.0 - value) / value


def from_scale(value: Float[np.ndarray, " *any"], transform: Transform) -> Float[np.ndarray, " *any"]:
    """The inverse of `to_scale`: a fitted error rate or odds back to the accuracy it stands for."""
    if transform == "loss":
        return value
    return 1.0 - value if transform == "error_rate" else 1.0 / (1.0 + np.maximum(value, 0.0))


def _numbers(frame: pd.DataFrame, column: str) -> Float[np.ndarray, " rows"]:
    numeric = pd.to_numeric(frame[column], errors="coerce")
    text = frame[column].notna() & numeric.isna()
    if text.any():
        value = frame.loc[text, column].iloc[0]
        if not (isinstance(value, str) and value.strip().lower() in {"", "nan", "none", "null", "inf", "-inf"}):
            raise InputError(f"{column} = '{value}' is not a number: correct that row or choose another column.")
    return np.asarray(numeric.to_numpy(dtype=np.float64))


def _require_positive(x: Float[np.ndarray, " rows"], name: str) -> None:
    bad = x[~(x > 0) | ~np.isfinite(x)]
    if bad.size:
        raise InputError(f"{name} = {bad[0]:g} has no logarithm: give only values above 0 (drop that row).")


def _odds(errors: LossTable) -> LossTable:
    keep = (errors.loss > 0) & (errors.loss < 1)
    dropped = tuple(f"row {row}: an accuracy of {1 - errors.loss[row]:g} has no logit" for row in np.flatnonzero(~keep))
    group = None if errors.group is None else tuple(np.asarray(errors.group)[keep].tolist())
    odds = errors.loss[keep] / (1.0 - errors.loss[keep])
    return replace(
        errors,
        x=errors.x[keep],
        loss=odds,
        group=group,
        task_losses=_odds_of_tasks(errors, keep),
        dropped=errors.dropped + dropped,
    )


def _odds_of_tasks(errors: LossTable, keep: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, "kept tasks"] | None:
    """Odds of each task along the tangent at its row's mean: a task alone has accuracy 0 or 1 too often for a logit.

    odds(e) = e / (1 − e) has slope 1 / (1 − e)², so the mean over tasks is the row's own odds.
    """
    if errors.task_losses is None:
        return None
    mean = errors.task_losses[keep].mean(axis=1, keepdims=True)
    row = errors.loss[keep, None]
    return np.asarray(row / (1.0 - row) + (errors.task_losses[keep] - mean) / (1.0 - row) ** 2)


def _error_rate(table: LossTable) -> Float[np.ndarray, " rows"]:
    if table.n_queries is None:
        return 1.0 - table.loss
    n = table.n_queries
    return np.asarray(((1.0 - table.loss) * n + 0.5) / (n + 1.0))


def distinct_groups(group: Sequence[str] | None) -> int:
    """How many seeds there are by name; 1 where rows carry none."""
    return 1 if group is None else len(set(group))
