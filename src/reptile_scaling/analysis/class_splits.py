"""How meta-training stands against the baselines over several class splits, each split a replication."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.analysis.missing import missing_sentence
from reptile_scaling.analysis.paired import Gain
from reptile_scaling.analysis.standing import Standing, standing_clauses, standings
from reptile_scaling.runs.directory import RunDirectory

SPLITS_FOR_A_SPREAD = 3
"""Splits from which on their own spread makes the interval; two have one degree of freedom, t = 12.7."""


@dataclass(frozen=True)
class SplitAnswer:
    """What one class split says by itself."""

    name: str
    level_name: str
    """The best level by its own validation tasks."""
    accuracy: float
    """There, mean over seeds and test tasks."""
    standings: tuple[Standing, ...]


def split_answers(run: RunDirectory) -> list[SplitAnswer]:
    """Of every split that has a finished cell, in their order."""
    return [_answer(name, own) for name, own in run.split_runs().items() if own.results()]


def _answer(name: str, run: RunDirectory) -> SplitAnswer:
    cells = best_cells(run)
    accuracy = float(np.mean([run.cell(cell).read_result().meta_test_accuracy for cell in cells]))
    return SplitAnswer(name, cells[0].level_name, accuracy, tuple(standings(run)))


def pooled_standings(answers: Sequence[SplitAnswer]) -> list[Standing]:
    """Each split's best level against every rival that all splits have measured: means over splits."""
    of_split = [{standing.name: standing for standing in answer.standings} for answer in answers]
    names = [name for name in (of_split[0] if of_split else ()) if all(name in found for found in of_split)]
    return [_pooled([found[name] for found in of_split]) for name in names]


def _pooled(of_split: Sequence[Standing]) -> Standing:
    gain = pooled_gain([Gain(standing.gain, standing.error) for standing in of_split])
    accuracy = float(np.mean([standing.accuracy for standing in of_split]))
    return Standing(of_split[0].name, of_split[0].label, accuracy, gain.points, gain.half_width, of_split[0].is_tuned)


def pooled_gain(gains: Sequence[Gain]) -> Gain:
    """The mean over splits. Its half-width is Student's over splits from three on; of two, who hardly show how splits
    differ, the root of the mean square of theirs: two splits of one set of classes are no two independent samples."""
    points = np.array([gain.points for gain in gains])
    if len(gains) < SPLITS_FOR_A_SPREAD:
        return Gain(float(points.mean()), float(np.sqrt(np.mean([gain.half_width**2 for gain in gains]))))
    error = float(points.std(ddof=1)) / len(points) ** 0.5
    return Gain(float(points.mean()), float(student.ppf(0.975, len(points) - 1)) * error)


def interval_words(n_splits: int) -> str:
    """What a pooled interval is over."""
    if n_splits < SPLITS_FOR_A_SPREAD:
        return "those within splits (root of their mean square), since so few do not show how splits differ"
    return f"Student's t over the {n_splits} splits"


def pooled_sentence(run: RunDirectory) -> str:
    """Meta-training, each split at its best level, against every rival, in accuracy; empty without baselines."""
    answers = split_answers(run)
    clauses = standing_clauses(pooled_standings(answers))
    if not clauses:
        return ""
    levels = ", ".join(answer.level_name for answer in answers)
    accuracy = np.mean([answer.accuracy for answer in answers])
    return (
        f"Over {len(answers)} class split{'s' * (len(answers) > 1)}, meta-training at the level that is best on each "
        f"split's validation tasks ({levels}; {accuracy:.1%}) {clauses}; 95 % intervals: "
        f"{interval_words(len(answers))}."
    )


def missing_of_splits(run: RunDirectory) -> str:
    """What the pooled answers are without: splits that have not begun, then what each other one lacks."""
    runs = run.split_runs()
    waiting = [name for name in run.config().split_configs if name not in runs]
    parts = [f"Not begun: {', '.join(waiting)}."] if waiting else []
    parts += [f"{name}: {lacking}" for name, own in runs.items() if (lacking := missing_sentence(own))]
    return " ".join(parts)
