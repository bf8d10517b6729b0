"""Least squares of log loss over a surface's parameters: many tables at once, by Levenberg and Marquardt within bounds.

Coefficients are searched as logs, so they stay positive. Legend: `B` tables · `R` rows · `P` parameters.
"""

from itertools import product

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import nnls

from reptile_scaling.laws.surface_forms import SurfaceForm

_POLISHED = 5  # grid points that are polished: the valley of an exponent and its amplitude spans several
_SMALLEST = 1e-9  # of the mean loss: a coefficient that is fitted as 0 keeps a logarithm
_MOST_STEPS = 150
_SETTLED = 1e-9  # a step that gains less than this share of the sum of squares is the last
_NUDGE = 1e-7  # of an outer number, to see what it does to the surface
_STUCK = 1e10  # damping at which no step is taken any more


def surface_values(
    form: SurfaceForm, parameters: Float[np.ndarray, "B P"], n_tasks: Float[np.ndarray, " R"],
    z: Float[np.ndarray, " R"],
) -> Float[np.ndarray, "B R"]:  # fmt: skip
    """The surface of each row of parameters at every (N, z)."""
    k = len(form.amplitudes)
    columns = form.columns(n_tasks, z, parameters.T[k:, :, None])
    return np.asarray(parameters[:, :1] + sum(parameters[:, i, None] * c for i, c in enumerate(columns, start=1)))


def best_fit(
    form: SurfaceForm, n_tasks: Float[np.ndarray, " R"], z: Float[np.ndarray, " R"], loss: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " P"]:
    """From the best points of a grid, each polished."""
    starts = _starts(form, n_tasks, z, loss)
    found, cost = polish(form, n_tasks, z, np.broadcast_to(np.log(loss), (len(starts), loss.size)), starts)
    return np.asarray(found[cost.argmin()])


def polish(
    form: SurfaceForm,
    n_tasks: Float[np.ndarray, " R"],
    z: Float[np.ndarray, " R"],
    log_loss: Float[np.ndarray, "B R"],
    starts: Float[np.ndarray, "B P"],
) -> tuple[Float[np.ndarray, "B P"], Float[np.ndarray, " B"]]:
    """All parameters together, outer numbers within twice their grid; the parameters and their sums of squares."""
    k = len(form.amplitudes)
    low, high = _bounds(form, n_tasks, z, log_loss, starts)

    def plain(p: Float[np.ndarray, "B P"]) -> Float[np.ndarray, "B P"]:
        return np.hstack([np.exp(p[:, :k]), p[:, k:]])

    p = np.clip(np.hstack([np.log(np.maximum(starts[:, :k], np.exp(low[:, :k]))), starts[:, k:]]), low, high)
    residual = log_loss - np.log(surface_values(form, plain(p), n_tasks, z))
    cost, damping, scale = (residual**2).sum(axis=1), np.full(len(p), 1e-3), np.zeros_like(p)
    left = np.arange(len(p))  # those that still move
    for _ in range(_MOST_STEPS):
        slope = _slope(form, plain(p[left]), n_tasks, z)
        uphill = -np.einsum("brp,br->bp", slope, residual[left])
        held = ((p[left] <= low[left]) & (uphill > 0)) | ((p[left] >= high[left]) & (uphill < 0))
        step, scale[left] = _step(slope, residual[left], held, damping[left], scale[left])
        trial = np.clip(p[left] + step, low[left], high[left])
        missed = log_loss[left] - np.log(surface_values(form, plain(trial), n_tasks, z))
        new_cost = (missed**2).sum(axis=1)
        better = new_cost < cost[left]
        gain = cost[left] - new_cost
        settled = (better & (gain <= _SETTLED * cost[left])) | (damping[left] > _STUCK)
        taken = left[better]
        p[taken], residual[taken], cost[taken] = trial[better], missed[better], new_cost[better]
        damping[left] *= np.where(better, 0.2, 4.0)
        left = left[~settled]
        if not left.size:
            break
    return plain(p), cost


def _step(
    slope: Float[np.ndarray, "B R P"],
    residual: Float[np.ndarray, "B R"],
    held: Bool[np.ndarray, "B P"],
    damping: Float[np.ndarray, " B"],
    scale: Float[np.ndarray, "B P"],
) -> tuple[Float[np.ndarray, "B P"], Float[np.ndarray, "B P"]]:
    """The damped step, and the largest curvature met so far, which is its unit; parameters held at a bound stay."""
    slope = np.where(held[:, None, :], 0.0, slope)
    normal = slope.transpose(0, 2, 1) @ slope
    place = np.arange(slope.shape[2])
    scale = np.maximum(scale, normal[:, place, place])
    normal[:, place, place] += damping[:, None] * scale + 1e-12
    return np.linalg.solve(normal, np.einsum("brp,br->bp", slope, residual)[..., None])[..., 0], scale


def _slope(
    form: SurfaceForm, parameters: Float[np.ndarray, "B P"], n_tasks: Float[np.ndarray, " R"],
    z: Float[np.ndarray, " R"],
) -> Float[np.ndarray, "B R P"]:  # fmt: skip
    """What log of the surface does with the logs of coefficients (exact) and with outer numbers (by difference)."""
    k = len(form.amplitudes)
    columns = form.columns(n_tasks, z, parameters.T[k:, :, None])
    parts = [np.broadcast_to(parameters[:, :1], (len(parameters), n_tasks.size))]
    parts += [parameters[:, i, None] * column for i, column in enumerate(columns, start=1)]
    value = np.sum(parts, axis=0)
    slopes = [part / value for part in parts]
    for outer in range(k, parameters.shape[1]):
        nudged = parameters.copy()
        nudge = _NUDGE * np.maximum(np.abs(parameters[:, outer]), 0.1)
        nudged[:, outer] += nudge
        slopes.append(np.log(surface_values(form, nudged, n_tasks, z) / value) / nudge[:, None])
    return np.stack(slopes, axis=2)


def _bounds(
    form: SurfaceForm,
    n_tasks: Float[np.ndarray, " R"],
    z: Float[np.ndarray, " R"],
    log_loss: Float[np.ndarray, "B R"],
    starts: Float[np.ndarray, "B P"],
) -> tuple[Float[np.ndarray, "B P"], Float[np.ndarray, "B P"]]:
    """Of logs of coefficients, and of outer numbers."""
    columns = form.columns(n_tasks, z, starts.T[len(form.amplitudes) :, :, None])
    size = np.column_stack([np.ones(len(starts)), *(column.max(axis=1) for column in columns)])
    least = np.log(_SMALLEST / size) + log_loss.mean(axis=1, keepdims=True)
    ends = [(g[0] - (g[-1] - g[0]) / 2 if g[0] < 0 else g[0] / 4, 2 * g[-1]) for g in form.grids]
    lows, highs = (np.broadcast_to([e[side] for e in ends], (len(starts), len(ends))) for side in (0, 1))
    return np.hstack([least, lows]), np.hstack([least + 60.0, highs])


def _starts(
    form: SurfaceForm, n_tasks: Float[np.ndarray, " R"], z: Float[np.ndarray, " R"], loss: Float[np.ndarray, " R"]
) -> Float[np.ndarray, "B P"]:
    """The best grid points of the outer numbers, each with its exact non-negative coefficients."""
    found = []
    for outer in product(*form.grids):
        columns = form.columns(n_tasks, z, np.array(outer))
        design = np.column_stack([np.ones(loss.size), *columns]) / loss[:, None]
        scale = np.maximum(design.max(axis=0), 1e-300)
        coefficients, norm = nnls(design / scale, np.ones(loss.size))
        found.append((float(norm), np.concatenate([coefficients / scale, outer])))
    return np.array([start for _, start in sorted(found, key=lambda pair: pair[0])[:_POLISHED]])
