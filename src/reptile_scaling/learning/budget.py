"""The test-time budget: for each number of inner steps the rate that is best on validation tasks, for any start.

Meta-trained and pretrained starts are tuned alike, from one grid that grows until its best lies inside it. Where rates
are learned, what is tuned is a factor on all of them, from 1.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.evaluation import Reading, StepsTaken, read_along
from reptile_scaling.learning.inner_rates import has_rates, times_rates
from reptile_scaling.learning.task_batch import InnerLoop
from reptile_scaling.learning.work import Work
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine

FIRST_RATES = (0.5, 1.0, 2.0)
"""Multiples of the configured inner rate, or of the learned ones, that every start is tried at."""
GROWTH = 2.0
MOST_GROWTHS = 3
"""How often the grid may grow at either end."""


@dataclass(frozen=True)
class Start:
    """What an adaptation begins from."""

    theta: Adapters
    """One initialisation `[…]`."""
    moments: AdamMoments | None = None

    def first_rate(self, loop: InnerLoop) -> float:
        """What the grid begins around: the loop's rate or, where rates are learned, a factor of 1."""
        return 1.0 if has_rates(self.theta) else loop.learning_rate

    def at_rate(self, loop: InnerLoop, rate: float) -> tuple[Adapters, InnerLoop]:
        """An initialisation and a loop that adapts it at this rate."""
        if has_rates(self.theta):
            return times_rates(self.theta, rate), loop
        return self.theta, replace(loop, learning_rate=rate)


@dataclass(frozen=True)
class Budget:
    """The rate for each number of inner steps, and what it gave on the validation tasks."""

    rates: Mapping[int, float]
    """A factor on the learned ones, where rates are learned. No step has no rate."""
    validation_losses: Mapping[int, float]
    """Nats per query utterance, mean over validation tasks, 0 steps included; infinite where every rate diverged."""

    @property
    def best_steps(self) -> int:
        """The number of steps of lowest validation loss; the fewest where several are alike."""
        return min(self.validation_losses, key=lambda steps: (self.validation_losses[steps], steps))


def choose_budget(
    engine: Engine,
    start: Start,
    validation: Sequence[Episode],
    loop: InnerLoop,
    steps: Sequence[int],
    told: StepsTaken | None = None,
) -> Budget:
    """Tries rates on the validation tasks; one adaptation at a rate tells of every number of steps, and of none."""
    counts = [step for step in steps if step > 0]
    losses: dict[float, dict[int, float]] = {}

    def try_rate(rate: float) -> None:
        theta, own = start.at_rate(loop, rate)
        found = read_along(engine, theta, validation, own, counts if losses else [0, *counts], start.moments, told)
        losses[rate] = {step: _mean_or_infinite(reading) for step, reading in found.items()}

    for factor in FIRST_RATES:
        try_rate(start.first_rate(loop) * factor)
    for end, grow in ((max, GROWTH), (min, 1 / GROWTH)):
        for _ in range(MOST_GROWTHS):
            edge = end(losses)
            if all(_best_rate(losses, step) != edge for step in counts):
                break
            try_rate(edge * grow)
    without = next(iter(losses.values()))[0]
    rates = {step: _best_rate(losses, step) for step in counts}
    return Budget(rates, {0: without, **{step: losses[rates[step]][step] for step in counts}})


def read_with_budget(
    engine: Engine,
    start: Start,
    episodes: Sequence[Episode],
    loop: InnerLoop,
    budget: Budget,
    told: StepsTaken | None = None,
) -> dict[int, Reading]:
    """The query sets after 0 steps and after each number of the budget's, every one at its own rate."""
    return read_with_budget_and_at(engine, start, episodes, loop, budget, {}, told)[0]


def read_with_budget_and_at(
    engine: Engine,
    start: Start,
    episodes: Sequence[Episode],
    loop: InnerLoop,
    budget: Budget,
    also: Mapping[float, Collection[int]],
    told: StepsTaken | None = None,
) -> tuple[dict[int, Reading], dict[float, dict[int, Reading]]]:
    """`read_with_budget`, and other numbers of steps at any rates: the tasks are adapted once at each rate."""
    wanted = {rate: set(steps) for rate, steps in also.items()}
    for step, rate in budget.rates.items():
        wanted.setdefault(rate, set()).add(step)
    lowest = min(wanted)
    wanted[lowest].add(0)
    found: dict[float, dict[int, Reading]] = {}
    for rate, steps in sorted(wanted.items()):
        theta, at_rate = start.at_rate(loop, rate)
        found[rate] = read_along(engine, theta, episodes, at_rate, sorted(steps), start.moments, told)
    rates = {0: lowest, **budget.rates}
    return {step: found[rates[step]][step] for step in sorted(rates)}, found


def budget_work(config: Config) -> Work:
    """Choosing a budget on the validation tasks and reading all test tasks with it, without growth of the grid."""
    n_readings, longest = len(config.curve_steps), max(config.curve_steps)
    tried, tested = len(FIRST_RATES) * config.num_validation_tasks, config.num_meta_test_tasks
    without_steps = config.num_validation_tasks + config.num_meta_test_tasks
    return Work(inner_steps=(tried + tested) * longest, readings=(tried + tested) * n_readings + without_steps)


def _best_rate(losses: Mapping[float, Mapping[int, float]], step: int) -> float:
    return min(losses, key=lambda rate: losses[rate][step])


def _mean_or_infinite(reading: Reading) -> float:
    mean = float(reading.loss.mean())
    return mean if np.isfinite(mean) else float("inf")
