"""How fast a start adapts, and to what: every test task read after 0, 1, 2, 5, … inner steps, each at its best rate."""

from collections.abc import Mapping
from dataclasses import dataclass

from reptile_scaling.learning.budget import (
    Budget,
    Start,
    choose_budget,
    read_with_budget,
    read_with_budget_and_at,
)
from reptile_scaling.learning.evaluation import (
    BEFORE,
    QueryLosses,
    Reading,
    StepsTaken,
    test_episodes,
    test_loop,
    validation_episodes,
)
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.runs.records import CurvePoint, TaskReading


@dataclass(frozen=True)
class Curve:
    """A start on all test tasks at each number of inner steps."""

    budget: Budget
    by_steps: Mapping[int, Reading]

    @property
    def points(self) -> list[CurvePoint]:
        """Means over the test tasks, with the rates that were chosen on validation tasks."""
        rates, validation = self.budget.rates, self.budget.validation_losses
        return [
            CurvePoint(n, float(r.loss.mean()), float(r.accuracy.mean()), rates.get(n), validation.get(n))
            for n, r in self.by_steps.items()
        ]

    @property
    def readings(self) -> list[TaskReading]:
        """Every test task, steps by steps."""
        return [
            TaskReading(n, task, round(loss, 6), round(accuracy, 6))
            for n, reading in self.by_steps.items()
            for task, (loss, accuracy) in enumerate(zip(reading.loss.tolist(), reading.accuracy.tolist(), strict=True))
        ]


def measure_curve(workbench: Workbench, start: Start, told: StepsTaken | None = None) -> Curve:
    """Chooses the rates of the configured numbers of steps on the validation tasks, and reads the test tasks."""
    engine, loop, steps = workbench.engine, test_loop(workbench.config), workbench.config.curve_steps
    budget = choose_budget(engine, start, validation_episodes(workbench), loop, steps, told)
    return Curve(budget, read_with_budget(engine, start, test_episodes(workbench), loop, budget, told))


def measure_with_curve(workbench: Workbench, start: Start) -> tuple[QueryLosses, Curve]:
    """`evaluate` on the test tasks, and the curve: one adaptation is read for both where the configured rate is one of
    the chosen ones."""
    engine, loop, steps = workbench.engine, test_loop(workbench.config), workbench.config.curve_steps
    budget = choose_budget(engine, start, validation_episodes(workbench), loop, steps)
    configured = start.first_rate(loop)
    also = {configured: (BEFORE, loop.steps)}
    by_steps, found = read_with_budget_and_at(engine, start, test_episodes(workbench), loop, budget, also)
    return QueryLosses(found[configured][BEFORE], found[configured][loop.steps]), Curve(budget, by_steps)
