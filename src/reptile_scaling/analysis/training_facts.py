"""What the page says in words and small tables: numbers of a run and its law, ready to print."""

import math
from dataclasses import dataclass

import numpy as np

from reptile_scaling.analysis.levels import best_cells
from reptile_scaling.axes import AXES
from reptile_scaling.laws import Law
from reptile_scaling.runs.directory import RunDirectory

# A validation loss within this share of its lowest counts as having reached it.
STILL = 0.01
# A zero-step loss this share above ln(n_way) is no noise of a few validation tasks.
REMEMBERED = 0.05


@dataclass(frozen=True)
class LevelCoverage:
    """What the cells of one level met in training; means over seeds."""

    name: str
    distinct_classes: float
    distinct_utterances: float
    visits_per_task: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Cost:
    """What the run took, summed over cells and baselines."""

    cell_hours: float
    tasks_per_second: float
    tokens_per_second: float | None
    baseline_hours: float
    workers: list[str]


def meaning_sentence(law: Law) -> str:
    """What the verdict's exponent means for someone who can pay for more tasks; empty without a law."""
    candidate = law.candidates.get(law.verdict.form)
    if candidate is None or "beta" not in candidate.parameters:
        return ""
    what = "what is above the floor" if law.verdict.form == "power_floor" else "the loss"
    beta = candidate.parameters["beta"]
    things = "the tasks" if law.table.x_name == AXES["n_tasks"].name else law.table.x_name
    sentence = f"Ten times {things} multiplies {what} by {10**-beta:.2g}"
    if "beta" in candidate.interval:
        low, high = candidate.interval["beta"]
        sentence += f" (95 % interval {10**-high:.2g} to {10**-low:.2g})"
    return sentence + "."


def gain_sentence(run: RunDirectory) -> str:
    """From the smallest to the largest level, in loss and accuracy points."""
    coverage = level_coverage(run)
    first, last = coverage[0], coverage[-1]
    if first is last:
        return ""
    return (
        f"From {first.name} to {last.name} the loss goes from {first.loss:.3f} to {last.loss:.3f} nats "
        f"and accuracy from {first.accuracy:.1%} to {last.accuracy:.1%} "
        f"({100 * (last.accuracy - first.accuracy):+.1f} points)."
    )


def convergence_sentence(run: RunDirectory) -> str:
    """Whether the largest level has stopped improving on validation tasks, which a fixed number of steps decides."""
    results = run.results()
    if selection := selection_sentence(run):
        return selection
    last = max(results, key=lambda r: r.level)
    largest = last.cell.level_name
    curves = [
        [row.validation_loss for row in run.cell(r.cell).read_eval_stats()] for r in results if r.level == last.level
    ]
    losses = np.array([curve for curve in curves if len(curve) == len(curves[0])]).mean(0)
    if len(losses) < 3:
        return f"{largest} was validated {len(losses)} times, too few to say whether it had stopped improving."
    best, steps = float(losses[:-1].min()), run.config().num_meta_steps
    if losses[-1] < best * (1 - STILL):
        return f"{largest} was still improving on validation tasks at meta-step {steps}: more may lower its loss."
    if losses[-1] > losses.min() * (1 + STILL):
        return f"{largest} was best on validation tasks before the end, by {losses[-1] / losses.min() - 1:.0%}."
    return f"{largest} had stopped improving on validation tasks by meta-step {steps}."


def selection_sentence(run: RunDirectory) -> str:
    """Where the tested points of the cells lie, and how many lie at an edge, where the best may be beyond. Empty where
    the last point is tested."""
    results = run.results()
    if run.config().select != "best" or results[0].selected_meta_step is None:
        return ""
    chosen = sorted({r.selected_meta_step for r in results if r.selected_meta_step is not None})
    last = [r for r in results if r.selected_meta_step == r.meta_steps]
    first = [r for r in results if r.selected_meta_step == 0]
    sentence = f"Cells are tested where validation tasks say so, after {chosen[0]} to {chosen[-1]} meta-steps"
    if first:
        sentence += f"; {len(first)} of {len(results)} are best before the first meta-step: training only harmed them"
    if last:
        sentence += f"; {len(last)} of {len(results)} are best at their last one: more meta-steps may lower their loss"
    return sentence + "."


def slots_sentence(run: RunDirectory) -> str:
    """Whether a classifier that tasks move starts worse than a uniform guess on validation tasks: it remembers slots.
    Empty where it does not; where slots are drawn anew the head stays, and guesses alike."""
    config, chance = run.config(), math.log(run.config().n_way)
    worst = [
        (row.zero_step_loss, cell.level_name)
        for cell in run.cells()
        for row in run.cell(cell).read_eval_stats()
        if row.zero_step_loss is not None
    ]
    if not worst or config.head != "classifier" or max(worst)[0] <= chance * (1 + REMEMBERED):
        return ""
    loss, level = max(worst)
    measured = (
        f"before any inner step the classifier of {level} has {loss:.2f} nats on validation tasks, more than a uniform "
        f"guess (ln {config.n_way} = {chance:.2f})"
    )
    return (
        f"Slots are remembered: {measured}. A curve over tasks may show that memory; `slots: permuted` draws them anew "
        "at every visit."
    )


def overtraining_sentence(run: RunDirectory, law: Law) -> str:
    """Whether the smallest level falls behind the largest mostly after its own best point on validation tasks: then a
    falling law tells of too many visits to few tasks rather than of too few tasks. Empty where it does not.
    """
    results = run.results()
    is_selected = results[0].selected_meta_step is not None and run.config().select == "best"
    if is_selected or not law.verdict.scaling_detected or not AXES[results[0].axis].shares_tests:
        return ""
    levels = sorted({r.level for r in results})
    ends, bests = [], []
    for level in (levels[0], levels[-1]):
        cells = [r.cell for r in results if r.level == level]
        curves = [[row.validation_loss for row in run.cell(cell).read_eval_stats()] for cell in cells]
        ends.append(float(np.mean([curve[-1] for curve in curves])))
        bests.append(float(np.mean([min(curve) for curve in curves])))
    if not bests[0] - bests[1] < (ends[0] - ends[1]) / 2:
        return ""
    small, large = (next(r.cell.level_name for r in results if r.level == level) for level in (levels[0], levels[-1]))
    return (
        f"Stopped where each cell is best on validation tasks, {small} has {bests[0]:.3f} nats there and {large} "
        f"{bests[1]:.3f}; at the end they have {ends[0]:.3f} and {ends[1]:.3f}. Most of the fall is overtraining of "
        "small levels: see what fewer meta-steps give."
    )


def level_coverage(run: RunDirectory) -> list[LevelCoverage]:
    """A row per level, rising."""
    results = run.results()
    rows = []
    for n in sorted({r.level for r in results}):
        cells = [r for r in results if r.level == n]
        fields = ("distinct_classes", "distinct_utterances", "visits_per_task", "meta_test_loss", "meta_test_accuracy")
        rows.append(
            LevelCoverage(
                cells[0].cell.level_name, *(float(np.mean([getattr(r, field) for r in cells])) for field in fields)
            )
        )
    return rows


def cost_of_run(run: RunDirectory) -> Cost:
    """Time and rates; a cell's time is its share of its cohort's."""
    results, config = run.results(), run.config()
    tokens = [r.tokens_per_second for r in results if r.tokens_per_second is not None]
    baselines = run.read_baselines().values()
    return Cost(
        cell_hours=sum(r.wall_seconds for r in results) / 3600,
        tasks_per_second=float(np.mean([r.tasks_per_second for r in results])),
        tokens_per_second=float(np.mean(tokens)) if tokens else None,
        baseline_hours=sum(b.seconds_per_task for b in baselines) * config.num_meta_test_tasks / 3600,
        workers=[f"{w.device} on {w.host}, {w.memory}" for w in run.read_workers()],
    )


def best_name(run: RunDirectory) -> str:
    """The level whose initialisations the page looks into."""
    return best_cells(run)[0].level_name
