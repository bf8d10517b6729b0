"""The grid of an experiment: its cells by level and seed."""

import re
from dataclasses import dataclass

from reptile_scaling.axes import AXES
from reptile_scaling.config import Config


@dataclass(frozen=True)
class Cell:
    """One point of the grid; `value` is its level where the axis is not n_tasks."""

    n_tasks: int
    seed: int
    axis: str = "n_tasks"
    value: int | str | None = None

    @property
    def name(self) -> str:
        if self.value is None:
            return self.stream_name
        return f"{self.axis}_{re.sub('[^A-Za-z0-9.-]+', '-', str(self.value)).strip('-')}_seed_{self.seed}"

    @property
    def stream_name(self) -> str:
        """Names the random streams of its visits; levels of another axis than n_tasks share them."""
        return f"ntasks_{self.n_tasks}_seed_{self.seed}"

    @property
    def level_name(self) -> str:
        """`N = 50`; of a model its own name, without where it lies."""
        if isinstance(self.value, str):
            return self.value.rstrip("/").rsplit("/", 1)[-1]
        return f"{AXES[self.axis].symbol} = {self.n_tasks if self.value is None else self.value}"


def grid(config: Config) -> list[Cell]:
    """Every cell, by rising level (in the order given for names) and seed."""
    if config.axis == "n_tasks":
        return [Cell(n, seed) for n in sorted(config.n_tasks_list) for seed in sorted(config.seeds)]
    (n_tasks,) = config.n_tasks_list
    values, seeds = config.ordered_values, sorted(config.seeds)
    return [Cell(n_tasks, seed, config.axis, value) for value in values for seed in seeds]
