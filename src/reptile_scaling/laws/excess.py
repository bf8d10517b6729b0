"""A power law with floor fitted to the log of its excess over the floor, as published translation laws are."""

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
