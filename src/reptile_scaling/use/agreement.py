"""Predictions beside the truth: accuracy, loss, calibration, recall."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from reptile_scaling.errors import InputError


@dataclass(frozen=True)
class Evaluation:
    """Predictions beside the truth."""

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    """Wilson's interval (Wilson 1927)."""
    loss: float
    """Mean cross-entropy, nats per text."""
    calibration_error: float
    """Expected calibration error (Guo et al. 2017): |accuracy − mean probability| over ten bins of probability."""
    recall: dict[str, float]
    """By label, of those that occur."""


def agreement(
    labels: tuple[str, ...], probabilities: Float[np.ndarray, "texts labels"], truth: list[str]
) -> Evaluation:
    """Of predictions beside labels that `check_truth` has passed."""
    slots = np.array([labels.index(label) for label in truth])
    correct = probabilities.argmax(1) == slots
    loss = -np.log(np.clip(probabilities[np.arange(len(slots)), slots], 1e-300, None))
    return Evaluation(
        n=len(truth),
        accuracy=float(correct.mean()),
        accuracy_ci95=wilson_interval(int(correct.sum()), len(truth)),
        loss=float(loss.mean()),
        calibration_error=calibration_error(probabilities.max(1), correct),
        recall={labels[slot]: float(correct[slots == slot].mean()) for slot in np.unique(slots)},
    )


def check_truth(truth: list[str], labels: tuple[str, ...]) -> None:
    """InputError for nothing to evaluate on, or a label that is none of `labels`."""
    if not truth:
        raise InputError("there is no text to evaluate on: give at least one labelled row")
    if unknown := sorted(set(truth) - set(labels)):
        raise InputError(f"label {unknown[0]!r} is none of this model's ({', '.join(labels)}): correct it")


def calibration_error(confidences: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], n_bins: int = 10) -> float:
    """|accuracy − mean confidence| of equally wide bins of confidence, mean over the predictions."""
    bins = np.minimum((confidences * n_bins).astype(int), n_bins - 1)
    gaps = [abs(float((correct[bins == b] - confidences[bins == b]).sum())) for b in np.unique(bins)]
    return sum(gaps) / len(confidences)


def wilson_interval(n_correct: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Of a share, `z` standard errors wide on either side; stays inside 0 … 1."""
    centre = (n_correct + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(n_correct * (n - n_correct) / n + z * z / 4)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
