"""Simulated sweeps whose truth is known: coverage and verdicts are counted on them, the planner plays them through."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from reptile_scaling.laws.forms import (
    BROKEN,
    CONSTANT,
    LOG_LINEAR,
    POWER,
    POWER_FLOOR,
    SMOOTH_BREAK,
    TWO_PLATEAUS,
    Form,
    evaluate,
)
from reptile_scaling.laws.table import LossTable

Truth = Literal[
    "power", "power_floor", "log_linear", "flat", "flat_from_50", "rising", "broken", "smooth_break", "two_plateaus"
]
TRUTHS: tuple[Truth, ...] = get_args(Truth)
NoiseTrend = Literal["even", "falling", "rising"]
NOISE_TRENDS: tuple[NoiseTrend, ...] = get_args(NoiseTrend)


@dataclass(frozen=True)
class World:
    """A true curve, the levels of N and seeds it is measured at, and the noise of one run as a share of its loss.

    `noise` is that of the middle of log N, and goes as N^-noise_exponent: falling noise where that is positive.
    """

    truth: Truth
    form: Form
    parameters: tuple[float, ...]
    levels: Float[np.ndarray, " levels"]
    n_seeds: int
    noise: float
    noise_exponent: float = 0.0

    @property
    def falls(self) -> bool:
        """Whether the loss is lower at the largest level than at the smallest."""
        return self.truth not in ("flat", "flat_from_50", "rising")

    def curve(self, x: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
        """The true mean loss at each N."""
        return np.asarray(evaluate(self.form, np.array([self.parameters]), x)[0])


def draw_table(world: World, rng: np.random.Generator) -> LossTable:
    """One sweep of this world."""
    x = np.repeat(world.levels, world.n_seeds)
    seeds = tuple(str(i % world.n_seeds) for i in range(x.size))
    return LossTable(x, run_loss(world, x, rng), seeds)


def run_loss(world: World, x: Float[np.ndarray, " R"], rng: np.random.Generator) -> Float[np.ndarray, " R"]:
    """The loss of one run at each x: log-normal noise of mean 1 (see World for its size), independent between runs."""
    middle = np.exp(np.log(world.levels).mean())
    sigma = np.sqrt(np.log1p(world.noise**2)) * (x / middle) ** -world.noise_exponent
    return np.asarray(world.curve(x) * np.exp(sigma * rng.standard_normal(x.size) - sigma**2 / 2))


def draw_world(truth: Truth, rng: np.random.Generator, noise_trend: NoiseTrend = "even") -> World:
    """A sweep such as people run: 6–10 levels from a few to 100–2000 tasks, 2–5 seeds, 1–5 % noise in the middle.

    The effects are ours to choose and are stated here: exponents 0.1–0.6 (0.2–1 above a floor of 30–80 % of the
    last loss), straight lines that lose 20–70 %, rises of 0.05–0.3 in the exponent, breaks between 0–0.1 and 0.3–0.7,
    sharp or over 0.7–1.4 e-folds, steps between plateaus that lose 20–60 % with a steepness of 2–8. `flat_from_50` has
    four or five levels from 50 to 1000. Noise that falls or rises does so with an exponent of 0.2–0.5 (Banking77's
    fell from 16 % at N = 1 to 0.7 % at N = 1000, an exponent of 0.45), at no level beyond 30 %.
    """
    levels = np.array([50.0, 100.0, 200.0, 500.0, 1000.0]) if truth == "flat_from_50" else _draw_levels(rng)
    if truth == "flat_from_50" and rng.random() < 0.5:
        levels = np.array([50.0, 100.0, 300.0, 1000.0])
    scale = float(rng.uniform(1.0, 5.0))
    form, parameters = _draw_curve(truth, levels, scale, rng)
    noise = float(np.exp(rng.uniform(np.log(0.01), np.log(0.05))))
    n_seeds = int(rng.integers(2, 6))
    exponent = 0.0
    if noise_trend != "even":
        half = float(np.log(levels[-1] / levels[0])) / 2
        size = min(float(rng.uniform(0.2, 0.5)), float(np.log(0.3 / noise)) / half)
        exponent = size if noise_trend == "falling" else -size
    return World(truth, form, tuple(float(p) for p in parameters), levels, n_seeds, noise, exponent)


def _draw_curve(
    truth: Truth, levels: Float[np.ndarray, " levels"], scale: float, rng: np.random.Generator
) -> tuple[Form, tuple[float, ...]]:
    first, last = float(levels[0]), float(levels[-1])
    beta = float(rng.uniform(0.1, 0.6))
    match truth:
        case "power":
            return POWER, (scale, beta)
        case "power_floor":
            beta, share = float(rng.uniform(0.2, 1.0)), float(rng.uniform(0.3, 0.8))
            return POWER_FLOOR, (scale, beta, scale * last**-beta * share / (1.0 - share))
        case "log_linear":
            slope = scale * float(rng.uniform(0.2, 0.7)) / np.log(last / first)
            return LOG_LINEAR, (scale + slope * np.log(first), slope)
        case "rising":
            return POWER, (scale, -float(rng.uniform(0.05, 0.3)))
        case "broken" | "smooth_break":
            slopes = (float(rng.uniform(0.0, 0.1)), float(rng.uniform(0.3, 0.7)))
            before, after = slopes if rng.random() < 0.5 else slopes[::-1]
            n_break = float(np.exp(rng.uniform(np.log(levels[1]), np.log(levels[-2]))))
            if truth == "broken":
                return BROKEN, (scale, before, after, n_break)
            return SMOOTH_BREAK, (scale, before, after, n_break, float(rng.uniform(0.7, 1.4)))
        case "two_plateaus":
            lost, steepness = float(rng.uniform(0.2, 0.6)), float(np.exp(rng.uniform(np.log(2.0), np.log(8.0))))
            n_drop = float(np.exp(rng.uniform(np.log(levels[1] * levels[2]) / 2, np.log(levels[-3] * levels[-2]) / 2)))
            return TWO_PLATEAUS, (scale * lost, scale * (1.0 - lost), n_drop, steepness)
        case _:
            return CONSTANT, (scale,)


def _draw_levels(rng: np.random.Generator) -> Float[np.ndarray, " levels"]:
    first, last = rng.integers(2, 11), np.exp(rng.uniform(np.log(100), np.log(2000)))
    return np.unique(np.round(np.geomspace(first, last, int(rng.integers(6, 11)))))
