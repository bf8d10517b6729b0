"""Runs beside each other: settings that differ, levels, laws and standing of each, and paired differences."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.analysis.law_of_run import law_of_run, losses_of_run, read_losses
from reptile_scaling.analysis.paired import Gain, paired_gain
from reptile_scaling.analysis.standing import Standing, classes_of_tests, standings, task_accuracies
from reptile_scaling.errors import InputError
from reptile_scaling.laws import Comparison, Law, LossTable, compare_arms, verdict_sentence
from reptile_scaling.runs.directory import RunDirectory


@dataclass(frozen=True)
class Level:
    """Means over a level's cells on the test tasks; the loss in nats per query utterance."""

    x: float
    n_seeds: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class AccuracyGap:
    """Points of accuracy at one level, second run minus first; half-width of its 95 % interval over test classes,
    tasks and seeds."""

    x: float
    points: float
    half_width: float


@dataclass(frozen=True)
class Difference:
    """A later run minus the first one."""

    losses: Comparison
    accuracies: tuple[AccuracyGap, ...]
    """At the levels that both have; empty where they were tested on other tasks."""


@dataclass(frozen=True)
class Beside:
    """Any number of runs; every tuple has one entry a run, `differences` one for each but the first."""

    names: tuple[str, ...]
    settings: dict[str, tuple[Any, ...]]
    """The keys whose values are not all the same."""
    levels: tuple[tuple[Level, ...], ...]
    laws: tuple[Law, ...]
    standings: tuple[tuple[Standing, ...], ...]
    differences: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for a program."""
        return {
            "runs": list(self.names),
            "settings": {key: list(values) for key, values in self.settings.items()},
            "levels": [[asdict(level) for level in of_run] for of_run in self.levels],
            "laws": [{**law.as_json(), "sentence": verdict_sentence(law)} for law in self.laws],
            "standing": [[{**asdict(s), "verb": s.verb} for s in of_run] for of_run in self.standings],
            "differences": [
                {**d.losses.as_json(), "accuracies": [asdict(gap) for gap in d.accuracies]} for d in self.differences
            ],
        }


def put_beside(folders: Sequence[Path]) -> Beside:
    """Reads the finished cells of runs. InputError for fewer than two, or a run without a finished cell."""
    if len(folders) < 2:
        raise InputError(f"compare was given {len(folders)} folder: give the folders of at least two runs")
    runs = [RunDirectory(folder) for folder in folders]
    for run in runs:
        if run.config().class_splits is not None:
            raise InputError(f"folder {str(run.path)!r} holds several class splits: compare the split_… folders in it")
        if not run.results():
            raise InputError(f"folder {str(run.path)!r} holds no finished cell to compare: run its experiment first")
    configs = [run.config().model_dump(mode="json") for run in runs]
    settings = {key: tuple(config[key] for config in configs) for key in configs[0]}
    return Beside(
        names=tuple(_distinct([folder.resolve() for folder in folders])),
        settings={key: values for key, values in settings.items() if any(value != values[0] for value in values)},
        levels=tuple(_levels(run) for run in runs),
        laws=tuple(law_of_run(run) for run in runs),
        standings=tuple(tuple(standings(run)) for run in runs),
        differences=tuple(_difference(runs[0], run) for run in runs[1:]),
    )


def compare_losses(first: Path, second: Path, x: str, y: str, group: str | None) -> Comparison:
    """Second minus first, of two tables or runs; paired over test tasks where two runs have the same ones."""
    if first.is_dir() and second.is_dir():
        return compare_arms(*_losses_of_both(RunDirectory(first), RunDirectory(second)))
    return compare_arms(read_losses(first, x, y, group), read_losses(second, x, y, group))


def share_test_tasks(first: RunDirectory, second: RunDirectory) -> bool:
    """Whether both were tested on the same tasks: the same utterances of the same classes in the same order."""
    pool = first.read_pool("test")
    return bool(pool) and pool == second.read_pool("test")


def _losses_of_both(first: RunDirectory, second: RunDirectory) -> tuple[LossTable, LossTable]:
    """Their tables; without the losses of single tasks where those are not the same ones and pair nothing."""
    a, b = losses_of_run(first), losses_of_run(second)
    if a.x_name != b.x_name:
        raise InputError(
            f"{str(second.path)!r} is a sweep over {b.x_name} and {str(first.path)!r} over {a.x_name}: "
            "compare runs over the same axis"
        )
    return (a, b) if share_test_tasks(first, second) else (replace(a, task_losses=None), replace(b, task_losses=None))


def _difference(first: RunDirectory, second: RunDirectory) -> Difference:
    losses = compare_arms(*_losses_of_both(first, second))
    if not share_test_tasks(first, second):
        return Difference(losses, ())
    gains = {x: _gain(first, second, x) for x in losses.x.tolist()}
    return Difference(losses, tuple(AccuracyGap(x, gain.points, gain.half_width) for x, gain in gains.items()))


def _gain(first: RunDirectory, second: RunDirectory, x: float) -> Gain:
    """Second minus first at a level, seed by seed where both have the same ones."""
    cells = [[r.cell for r in run.results() if r.level == x] for run in (first, second)]
    theirs, ours = (task_accuracies(run, own) for run, own in zip((first, second), cells, strict=True))
    if [cell.seed for cell in cells[0]] == [cell.seed for cell in cells[1]]:
        theirs, ours = np.zeros_like(theirs[:1]), ours - theirs
    return paired_gain(ours, theirs, classes_of_tests(first))


def _levels(run: RunDirectory) -> tuple[Level, ...]:
    results = run.results()
    cells = {x: [r for r in results if r.level == x] for x in sorted({r.level for r in results})}
    return tuple(
        Level(
            x,
            len(of_level),
            float(np.mean([r.meta_test_loss for r in of_level])),
            float(np.mean([r.meta_test_accuracy for r in of_level])),
        )
        for x, of_level in cells.items()
    )


def _distinct(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; a folder that is given twice keeps one name."""
    n_different = len(set(folders))
    for depth in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == n_different:
            return names
    return [str(folder) for folder in folders]
