"""The exact inside of a fit: given the outer number, a form is a weighted straight line in its columns.

Legend: `B` tables (`#B` is B or 1) · `G` outer values (`#G` is G or 1) · `K` levels · `Q` coefficients, intercept
first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Residual = Literal["log", "plain"]
# Gauss–Newton rounds for a floor with log residuals: from a start that is off by the square of the residuals (0.05²),
# each round squares it again; six leave nothing at residuals of 30 %.
_ROUNDS_EXACT, _ROUNDS_DRAWS = 6, 1


@dataclass(frozen=True)
class Problem:
    """Tables to be fitted at given outer numbers: `target` y, `w` weights, `terms` the form's columns.

    `rounds` are the Gauss–Newton rounds of a floor with log residuals.
    """

    target: Float[np.ndarray, "#B #G K"]
    w: Float[np.ndarray, "#B #G K"]
    terms: list[Float[np.ndarray, "#B #G K"]]
    residual: Residual
    rounds: int


Solver = Callable[[Problem], tuple[list[np.ndarray], np.ndarray]]
"""Coefficients, intercept first, `[#B, #G]` each, and the weighted sum of squares `[#B, #G]`."""


def problem(
    terms: list[Float[np.ndarray, "#B G K"]],
    y: Float[np.ndarray, "B K"],
    weights: Float[np.ndarray, "#B K"],
    residual: Residual,
    *,
    exact: bool,
) -> Problem:
    """The problem of B tables at G outer numbers."""
    return Problem(y[:, None, :], weights[:, None, :], terms, residual, _ROUNDS_EXACT if exact else _ROUNDS_DRAWS)


def solve_constant(p: Problem) -> tuple[list[np.ndarray], np.ndarray]:
    """A mean, geometric where residuals are logs."""
    if p.residual == "plain":
        return _with_intercept(p.target, p.w, [])
    intercepts, rss = _with_intercept(np.log(p.target), p.w, [])
    return [np.exp(intercepts[0])], rss


def solve_power(p: Problem) -> tuple[list[np.ndarray], np.ndarray]:
    """An amplitude alone; with log residuals log y + β log x is the intercept and noise: it is a geometric mean."""
    (u,) = p.terms
    if p.residual == "log":
        intercepts, rss = _with_intercept(np.log(p.target) - np.log(u), p.w, [])
        return [np.exp(intercepts[0])], rss
    amplitude = _ratio((p.w * u * p.target).sum(-1), (p.w * u**2).sum(-1))
    return [amplitude], (p.w * (p.target - amplitude[..., None] * u) ** 2).sum(-1)


def solve_line(p: Problem) -> tuple[list[np.ndarray], np.ndarray]:
    """A straight line of y itself; relative noise weighs it by 1 / y²."""
    return _with_intercept(p.target, p.w / p.target**2 if p.residual == "log" else p.w, p.terms)


def solve_log_line(p: Problem) -> tuple[list[np.ndarray], np.ndarray]:
    """Straight lines of log y."""
    return _with_intercept(np.log(p.target), p.w, p.terms)


def solve_with_floor(p: Problem) -> tuple[list[np.ndarray], np.ndarray]:
    """Floor and amplitude ≥ 0."""
    floor_and_amplitude, rss = _with_floor(p.target, p.w, p.terms[0], p.residual, p.rounds)
    return floor_and_amplitude, rss


def _with_floor(
    target: Float[np.ndarray, "#B #G K"],
    w: Float[np.ndarray, "#B #G K"],
    u: Float[np.ndarray, "#B #G K"],
    residual: Residual,
    rounds: int,
) -> tuple[list[Float[np.ndarray, "#B #G"]], Float[np.ndarray, "#B #G"]]:
    """Floor and amplitude ≥ 0, log residuals by Gauss–Newton: fit p·(1 + log(y / p)) with weights 1 / p²."""
    if residual == "plain":
        floor, amplitude = _kept_positive(target, w, u, keep_floor=bool((target > 0).all()))
        return [floor, amplitude], (w * (target - floor[..., None] - amplitude[..., None] * u) ** 2).sum(-1)
    floor, amplitude = _kept_positive(target, w / target**2, u, keep_floor=True)
    for _ in range(rounds):
        fitted = floor[..., None] + amplitude[..., None] * u
        working = fitted * (1.0 + np.log(target / fitted))
        floor, amplitude = _kept_positive(working, w / fitted**2, u, keep_floor=True)
    fitted = floor[..., None] + amplitude[..., None] * u
    return [floor, amplitude], (w * np.log(target / fitted) ** 2).sum(-1)


def _kept_positive(
    target: Float[np.ndarray, "#B #G K"],
    w: Float[np.ndarray, "#B #G K"],
    u: Float[np.ndarray, "#B #G K"],
    *,
    keep_floor: bool,
) -> list[Float[np.ndarray, "#B #G"]]:
    """Least squares with floor and amplitude ≥ 0: convex in two numbers, so the optimum is one of three."""
    (floor, amplitude), _ = _with_intercept(target, w, [u])
    if keep_floor:
        no_floor = _ratio((w * u * target).sum(-1), (w * u * u).sum(-1))
        floor, amplitude = np.maximum(floor, 0.0), np.where(floor < 0, no_floor, amplitude)
    mean = (w * target).sum(-1) / w.sum(-1)
    return [np.where(amplitude < 0, mean, floor), np.maximum(amplitude, 0.0)]


def _with_intercept(
    target: Float[np.ndarray, "#B #G K"], w: Float[np.ndarray, "#B #G K"], terms: list[Float[np.ndarray, "#B #G K"]]
) -> tuple[list[Float[np.ndarray, "#B #G"]], Float[np.ndarray, "#B #G"]]:
    """Intercept and up to two slopes by centring (no cancellation) and Cramer's rule, with the sum of squares."""
    total = w.sum(-1)
    y_mean = (w * target).sum(-1) / total
    means = [(w * u).sum(-1) / total for u in terms]
    y_c, cs = target - y_mean[..., None], [u - m[..., None] for u, m in zip(terms, means, strict=True)]
    slopes: list[Float[np.ndarray, "#B #G"]] = []
    if len(terms) == 1:
        slopes = [_ratio((w * cs[0] * y_c).sum(-1), (w * cs[0] ** 2).sum(-1))]
    elif len(terms) == 2:
        first, second = ((w * c * y_c).sum(-1) for c in cs)
        s00, s01, s11 = ((w * cs[i] * cs[j]).sum(-1) for i, j in ((0, 0), (0, 1), (1, 1)))
        determinant = s00 * s11 - s01**2
        determinant = np.where(determinant > 1e-12 * s00 * s11, determinant, 0.0)  # a side of the break with one level
        slopes = [_ratio(first * s11 - second * s01, determinant), _ratio(second * s00 - first * s01, determinant)]
    for slope, c in zip(slopes, cs, strict=True):
        y_c = y_c - slope[..., None] * c
    intercept = y_mean - sum((s * m for s, m in zip(slopes, means, strict=True)), np.zeros(()))
    return [intercept, *slopes], (w * y_c**2).sum(-1)


def _ratio(above: Float[np.ndarray, "#B #G"], below: Float[np.ndarray, "#B #G"]) -> Float[np.ndarray, "#B #G"]:
    """above / below, and 0 where resampled levels leave nothing to measure a slope from."""
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))


def log_line(log_x: Float[np.ndarray, " R"], log_y: Float[np.ndarray, " R"]) -> tuple[float, float, float]:
    """(intercept, −slope, residual sum of squares) of an unweighted straight line."""
    centred = log_x - log_x.mean()
    slope = float(centred @ log_y / (centred @ centred))
    rss = float(np.sum((log_y - log_y.mean() - slope * centred) ** 2))
    return float(log_y.mean() - slope * log_x.mean()), -slope, rss
