"""Simulated sweeps whose truth is known: coverage and verdicts are counted on them, the planner plays them through."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from reptile_scaling.laws.forms import BROKEN, CONSTANT, LOG_LINEAR, POWER, POWER_FLOOR, Form, evaluate
from reptile_scaling.laws.table import LossTable

Truth = Literal["power", "power_floor", "log_linear", "flat", "rising", "broken"]
TRUTHS: tuple[Truth, ...] = ("power", "power_floor", "log_linear", "flat", "rising", "broken")


@dataclass(frozen=True)
class World:
    """A true curve, the levels of N and seeds it is measured at, and the noise of one run as a share of its loss."""

    truth: Truth
    form: Form
    parameters: tuple[float, ...]
    levels: Float[np.ndarray, " levels"]
    n_seeds: int
    noise: float

    @property
    def falls(self) -> bool:
        return self.truth not in ("flat", "rising")

    def curve(self, x: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
        """The true mean loss at each N."""
        return np.asarray(evaluate(self.form, np.array([self.parameters]), x)[0])


def draw_table(world: World, rng: np.random.Generator) -> LossTable:
    """One sweep of this world: log-normal noise of mean 1, independent between runs."""
    x = np.repeat(world.levels, world.n_seeds)
    sigma = np.sqrt(np.log1p(world.noise**2))
    noise = np.exp(sigma * rng.standard_normal(x.size) - sigma**2 / 2)
    seeds = tuple(str(i % world.n_seeds) for i in range(x.size))
    return LossTable(x, world.curve(x) * noise, seeds)


def draw_world(truth: Truth, rng: np.random.Generator) -> World:
    """A sweep such as people run: 6–10 levels from a few to 100–2000 tasks, 2–5 seeds, 1–5 % noise.

    The effects are ours to choose and are stated here: exponents 0.1–0.6 (0.2–1 above a floor of 30–80 % of the
    last loss), straight lines that lose 20–70 %, rises of 0.05–0.3 in the exponent, breaks between 0–0.1 and 0.3–0.7.
    """
    levels = _draw_levels(rng)
    last, scale = float(levels[-1]), float(rng.uniform(1.0, 5.0))
    beta = float(rng.uniform(0.1, 0.6))
    form: Form
    parameters: tuple[float, ...]
    match truth:
        case "power":
            form, parameters = POWER, (scale, beta)
        case "power_floor":
            beta = float(rng.uniform(0.2, 1.0))
            share = float(rng.uniform(0.3, 0.8))
            form, parameters = POWER_FLOOR, (scale, beta, scale * last**-beta * share / (1.0 - share))
        case "log_linear":
            slope = scale * float(rng.uniform(0.2, 0.7)) / np.log(last / levels[0])
            form, parameters = LOG_LINEAR, (scale + slope * np.log(levels[0]), slope)
        case "rising":
            form, parameters = POWER, (scale, -float(rng.uniform(0.05, 0.3)))
        case "broken":
            slopes = (float(rng.uniform(0.0, 0.1)), float(rng.uniform(0.3, 0.7)))
            before, after = slopes if rng.random() < 0.5 else slopes[::-1]
            n_break = float(np.exp(rng.uniform(np.log(levels[1]), np.log(levels[-2]))))
            form, parameters = BROKEN, (scale, before, after, n_break)
        case _:
            form, parameters = CONSTANT, (scale,)
    noise = float(np.exp(rng.uniform(np.log(0.01), np.log(0.05))))
    return World(truth, form, tuple(float(p) for p in parameters), levels, int(rng.integers(2, 6)), noise)


def _draw_levels(rng: np.random.Generator) -> Float[np.ndarray, " levels"]:
    first, last = rng.integers(2, 11), np.exp(rng.uniform(np.log(100), np.log(2000)))
    return np.unique(np.round(np.geomspace(first, last, int(rng.integers(6, 11)))))
