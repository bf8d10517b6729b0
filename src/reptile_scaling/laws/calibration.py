"""How far confidence is from how often it is right: expected calibration error, to stand beside an accuracy."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from reptile_scaling.errors import InputError
from reptile_scaling.randomness import stream

N_BINS = 15  # Guo et al. 2017 (arXiv:1706.04599)


@dataclass(frozen=True)
class CalibrationError:
    """ECE in probability (mean over answers of |confidence − accuracy| of their bin) with a 95 % interval.

    ECE of a perfectly calibrated model is above 0 with finitely many answers; `of_chance` is what this many would show.
    """

    value: float
    low: float
    high: float
    of_chance: float


def calibration_error(
    confidence: Float[np.ndarray, " answers"],
    correct: Bool[np.ndarray, " answers"],
    *,
    n_bootstrap: int = 400,
    seed: int = 0,
) -> CalibrationError:
    """ECE over 15 bins of equal width. The interval draws answers again; `of_chance` draws them right as often as said.

    Raises InputError for confidences that are no probabilities.
    """
    if confidence.size == 0 or not ((confidence >= 0) & (confidence <= 1)).all():
        raise InputError(f"{confidence.size} confidences, not all from 0 to 1: give the probability of each answer.")
    rng = stream(seed, "calibration")
    hits = correct.astype(np.float64)
    rows = rng.integers(0, hits.size, (n_bootstrap, hits.size))
    drawn = calibration_errors(confidence[rows], hits[rows])
    by_chance = calibration_errors(
        np.broadcast_to(confidence, rows.shape), (rng.random(rows.shape) < confidence).astype(np.float64)
    )
    value = float(calibration_errors(confidence[None], hits[None])[0])
    low, high = np.percentile(drawn, [2.5, 97.5])
    return CalibrationError(value, float(min(low, value)), float(max(high, value)), float(by_chance.mean()))


def calibration_errors(confidence: Float[np.ndarray, "B n"], hits: Float[np.ndarray, "B n"]) -> Float[np.ndarray, " B"]:
    """ECE of each row by itself: Σ over bins of |Σ (hit − confidence)| / n."""
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    offset = np.arange(len(confidence))[:, None] * N_BINS
    gaps = np.bincount((bins + offset).ravel(), weights=(hits - confidence).ravel(), minlength=len(hits) * N_BINS)
    return np.asarray(np.abs(gaps.reshape(len(hits), N_BINS)).sum(axis=1) / hits.shape[1])
