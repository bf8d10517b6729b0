"""What N tasks buy in inner steps: levels beside fine-tuning at each number of steps, both at their best rates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from reptile_scaling.analysis.paired import Gain, paired_gain
from reptile_scaling.analysis.standing import classes_of_tests
from reptile_scaling.axes import AXES
from reptile_scaling.laws import Law, LossTable, fit_law
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import TaskReading
from reptile_scaling.storage import read_rows

FINE_TUNING = "no_meta_tuned"


@dataclass(frozen=True)
class AtSteps:
    """The largest level and fine-tuning after so many inner steps, on the same test tasks."""

    inner_step: int
    ours: Float[np.ndarray, "S T"]
    """Accuracies of each cell on each test task."""
    rival: Float[np.ndarray, "R T"]
    """Those from each of fine-tuning's initialisations."""
    gain: Gain

    @property
    def accuracy(self) -> float:
        return float(self.ours.mean())

    @property
    def rival_accuracy(self) -> float:
        return float(self.rival.mean())


def at_steps(run: RunDirectory) -> list[AtSteps]:
    """Rising; empty where cells or fine-tuning have no curve."""
    cells = _largest_cells(run)
    ours = [_by_steps(run.cell(cell).read_curve_readings()) for cell in cells]
    theirs = [_by_steps(rows) for rows in _fine_tuning(run)]
    if not cells or not theirs or not all(ours):
        return []
    classes = classes_of_tests(run)
    rows = []
    for step in sorted(set.intersection(*(set(curve) for curve in (*ours, *theirs)))):
        us, them = np.array([curve[step] for curve in ours]), np.array([curve[step] for curve in theirs])
        rows.append(AtSteps(step, us, them, paired_gain(us, them, classes)))
    return rows


def worth_sentence(run: RunDirectory) -> str:
    """The fewest steps from the largest level that are as good as fine-tuning at the number of steps that is best on
    validation tasks, and where tasks buy nothing. Empty without curves."""
    rows = at_steps(run)
    if not rows:
        return ""
    level = _largest_cells(run)[0].level_name
    best_rival = _chosen_by_fine_tuning(run, rows)
    reaching = next((row for row in rows if row.accuracy >= best_rival.rival_accuracy), None)
    ahead = [row.inner_step for row in rows if row.gain.verb == "beats"]
    rival = f"fine-tuning's best, {best_rival.rival_accuracy:.1%} at {_steps(best_rival.inner_step)}"
    if reaching is None:
        best = max(rows, key=lambda row: row.accuracy)
        first = f"{level} never reaches {rival}: {best.accuracy:.1%} at {_steps(best.inner_step)} is its most"
    else:
        gain = paired_gain(reaching.ours, best_rival.rival, classes_of_tests(run))
        beyond = f"{gain.points:+.1f} ± {gain.half_width:.1f} points"
        first = f"{level} at {_steps(reaching.inner_step)} ({reaching.accuracy:.1%}) is worth {rival} ({beyond})"
    if not ahead:
        return f"{first}; at no number of steps is it ahead of fine-tuning at as many."
    return f"{first}; at {', '.join(map(str, ahead))} inner steps it is ahead of fine-tuning at as many."


def laws_at_steps(run: RunDirectory) -> dict[int, Law]:
    """The law of the test loss over the axis after each number of inner steps, every one at its best rate."""
    results = run.results()
    curves = {r.cell: {p.inner_step: p.loss for p in run.cell(r.cell).read_adaptation_curve()} for r in results}
    measured = [r for r in results if curves[r.cell]]
    if not measured or run.config().axis not in ("n_tasks", "n_classes"):
        return {}
    axis = AXES[measured[0].axis]
    return {
        step: fit_law(
            LossTable(
                x=np.array([r.level for r in measured], dtype=float),
                loss=np.array([curves[r.cell][step] for r in measured], dtype=float),
                group=tuple(str(r.seed) for r in measured),
                x_name=axis.name,
                x_symbol=axis.symbol,
                y_name=f"test loss after {_steps(step)}",
            )
        )
        for step in sorted(set.intersection(*(set(curves[r.cell]) for r in measured)))
    }


def _chosen_by_fine_tuning(run: RunDirectory, rows: Sequence[AtSteps]) -> AtSteps:
    """At the steps of lowest loss on validation tasks, mean over fine-tuning's initialisations."""
    losses = {
        point.inner_step: point.validation_loss
        for point in run.read_baselines()[FINE_TUNING].adaptation_curve
        if point.validation_loss is not None
    }
    return min(rows, key=lambda row: (losses.get(row.inner_step, np.inf), row.inner_step))


def _largest_cells(run: RunDirectory) -> list[Cell]:
    results = run.results()
    return [r.cell for r in results if r.level == max(other.level for other in results)]


def _fine_tuning(run: RunDirectory) -> list[list[TaskReading]]:
    """A table for each initialisation, once all of them are there."""
    if FINE_TUNING not in run.read_baselines():
        return []
    files = sorted(run.baseline_folder(FINE_TUNING).glob("seed_*_curve_tasks.csv"))
    return [read_rows(file, TaskReading) for file in files]


def _by_steps(rows: Sequence[TaskReading]) -> dict[int, Float[np.ndarray, "T"]]:
    """Accuracy on each test task after each number of steps."""
    steps = sorted({row.inner_step for row in rows})
    return {step: np.array([row.accuracy for row in rows if row.inner_step == step]) for step in steps}


def _steps(n: int) -> str:
    return "1 inner step" if n == 1 else f"{n} inner steps"
