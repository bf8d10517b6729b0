"""Laws fitted to the log of the excess over a floor, as published translation laws are: with and without a start."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from reptile_scaling.errors import InputError
from reptile_scaling.laws.forms import POWER_FLOOR, evaluate
from reptile_scaling.laws.linear import log_line


def fit_floor_by_excess(x: Float[np.ndarray, " R"], y: Float[np.ndarray, " R"]) -> Float[np.ndarray, " P"]:
    """(a, beta, floor) that minimise Σ (log(y − floor) − log a + β log x)²; the outer number here is the floor.

    Alabdulmohsin et al. 2022 (arXiv:2209.06640), their M2. It weighs the last points most, since their excess is
    smallest, and suits smooth learning curves; for sweeps with seed noise `fit_law` uses log y instead.
    """
    if y.min() <= 0 or np.unique(x).size < 4:
        raise InputError(f"smallest loss {y.min():g} at {np.unique(x).size} levels: give 4 levels of positive losses.")
    log_x, low, high = np.log(x), 0.0, float(y.min()) * (1.0 - 1e-6)
    for _ in range(40):
        floors = np.linspace(low, high, 41)
        rss = [log_line(log_x, np.log(y - floor))[2] for floor in floors]
        best = int(np.argmin(rss))
        low, high = floors[max(best - 1, 0)], floors[min(best + 1, 40)]
    floor = 0.5 * (low + high)
    log_a, beta, _ = log_line(log_x, np.log(y - floor))
    return np.array([np.exp(log_a), beta, floor])


def predict_with_floor(parameters: Float[np.ndarray, " P"], x: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """The fitted curve at x."""
    return np.asarray(evaluate(POWER_FLOOR, parameters[None], x)[0])


@dataclass(frozen=True)
class StartAndFloor:
    """(L − floor) / (start − L)^alpha = scale · x^-c: power law far out, the `start` of an untrained model near 0."""

    floor: float
    start: float
    alpha: float
    scale: float
    c: float


def fit_start_and_floor(x: Float[np.ndarray, " R"], y: Float[np.ndarray, " R"]) -> StartAndFloor:
    """M4 of Alabdulmohsin et al. 2022: floor and start searched on a grid, log scale, alpha and c by least squares.

    The objective is the squared error of log(L − floor); alpha stays ≥ 0. Raises InputError for fewer than 6 rows.
    """
    if y.min() <= 0 or x.size < 6:
        raise InputError(f"smallest loss {y.min():g} in {x.size} rows: give 6 rows of positive losses.")
    floors = float(y.min()) * np.linspace(0.0, 0.999, 60)
    starts = float(y.max()) * np.geomspace(1.001, 20.0, 40)
    tried = [_with_start(x, y, float(floor), float(start)) for floor in floors for start in starts]
    return min(tried, key=lambda fit: fit[0])[1]


def predict_with_start(fit: StartAndFloor, x: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """The curve at x by bisection: the left side rises with L from 0 at the floor to infinity at the start."""
    low, high = np.full(x.size, fit.floor), np.full(x.size, fit.start)
    for _ in range(60):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):  # at an end the search has converged
            left = np.log(middle - fit.floor) - fit.alpha * np.log(fit.start - middle)
        above = left > np.log(fit.scale) - fit.c * np.log(x)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray((low + high) / 2)


def _with_start(
    x: Float[np.ndarray, " R"], y: Float[np.ndarray, " R"], floor: float, start: float
) -> tuple[float, StartAndFloor]:
    """Sum of squares and fit at one floor and start; alpha = 0 is the power law with a floor."""
    target, room = np.log(y - floor), np.log(start - y)
    design = np.column_stack([np.ones(x.size), room, -np.log(x)])
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    if solution[1] < 0:
        short = np.linalg.lstsq(design[:, [0, 2]], target, rcond=None)[0]
        solution = np.array([short[0], 0.0, short[1]])
    rss = float(np.sum((target - design @ solution) ** 2))
    return rss, StartAndFloor(floor, start, float(solution[1]), float(np.exp(solution[0])), float(solution[2]))
