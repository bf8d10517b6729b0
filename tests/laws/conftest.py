"""Named worlds whose truth is known, and the folder of published fits."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from reptile_scaling.laws import Law, LossTable, fit_law
from reptile_scaling.laws.candidates import fit_candidate
from reptile_scaling.laws.forms import FORMS
from reptile_scaling.laws.levels import gather_levels
from reptile_scaling.laws.worlds import Truth, World, draw_table
from reptile_scaling.randomness import stream

SEVEN = np.array([2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0])
WORLDS: dict[str, tuple[Truth, str, tuple[float, ...]]] = {
    "KAPLAN": ("power", "power", (3.0, 0.3)),
    "WITH_FLOOR": ("power_floor", "power_floor", (2.0, 0.5, 0.7)),
    "STRAIGHT": ("log_linear", "log_linear", (2.5, 0.25)),
    "FLAT": ("flat", "constant", (1.4,)),
    "RISING": ("rising", "power", (1.0, -0.1)),
    "BENT": ("broken", "broken", (1.5, 0.05, 0.6, 20.0)),
    "ROUNDED": ("smooth_break", "smooth_break", (1.5, 0.05, 0.6, 20.0, 0.7)),
    "STEP": ("two_plateaus", "two_plateaus", (0.8, 1.2, 20.0, 4.0)),
}


def named_world(
    name: str, *, n_seeds: int = 3, noise: float = 0.03, levels: np.ndarray = SEVEN, noise_exponent: float = 0.0
) -> World:
    truth, form, parameters = WORLDS[name]
    return World(truth, FORMS[form], parameters, levels, n_seeds, noise, noise_exponent)


@cache
def law_of(name: str, *, noise: float = 0.03) -> Law:
    """Of one sweep of a named world, 3 seeds: fitted once for all tests that ask what such a law says."""
    return fit_law(draw_table(named_world(name, noise=noise), stream(0, "verdict", name)), n_bootstrap=200)


def power_interval(table: LossTable) -> dict[str, tuple[float, float]]:
    """95 % intervals of a power law alone, which is all that some tests ask of a table."""
    return fit_candidate(FORMS["power"], table, gather_levels(table), 400, 0).interval


def table_of(x: list[float], y: list[float], seeds: list[str] | None = None) -> LossTable:
    return LossTable(np.array(x, dtype=float), np.array(y, dtype=float), None if seeds is None else tuple(seeds))


@pytest.fixture(scope="session")
def fit_oracles() -> Path:
    folder = Path(os.environ.get("REPTILE_SCALING_DATA", Path(__file__).parents[3] / "shared" / "data")) / "fit_oracles"
    if not folder.is_dir():
        pytest.skip(f"published fits not found at {folder}: set REPTILE_SCALING_DATA")
    return folder
