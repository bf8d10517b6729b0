"""Crossed random effects of test classes and test tasks on level means: which classes are tested is chance too.

Legend: `T` test tasks · `C` test classes · `K` levels · `B` draws.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Ratios of a class's variance to a task's that are tried; beyond 1000 a task adds nothing of its own.
_RATIOS = np.concatenate([[0.0], np.geomspace(0.01, 1000.0, 61)])


@dataclass(frozen=True)
class TaskEffects:
    """Best guesses of what each class and each task adds to every level, scaled to their estimated variances.

    A task's loss is μ + mean over its classes of u + e. `by_class[C, K]` is u's share in a level mean once a class's
    sign is drawn, `by_task[T, K]` that of e; both keep the correlation between levels, since common tasks move a whole
    curve. `class_share` is the part of the variance of a level mean that classes carry.
    """

    by_class: Float[np.ndarray, "C K"]
    by_task: Float[np.ndarray, "T K"]
    class_share: float

    @property
    def variance(self) -> Float[np.ndarray, " K"]:
        """Variance of each level's mean over other classes and other tasks."""
        return np.asarray((self.by_class**2).sum(axis=0) + (self.by_task**2).sum(axis=0))

    def drawn_shift(self, n: int, rng: np.random.Generator) -> Float[np.ndarray, "B K"]:
        """How level means move with other classes and tasks: a Gaussian multiplier for each, crossed."""
        classes = rng.standard_normal((n, len(self.by_class))) @ self.by_class
        return np.asarray(classes + rng.standard_normal((n, len(self.by_task))) @ self.by_task)


def membership(task_classes: tuple[tuple[str, ...], ...]) -> Float[np.ndarray, "T C"]:
    """1 / n_way where a task has a class, else 0; columns in the order of the names."""
    names = sorted({name for classes in task_classes for name in classes})
    shares = np.zeros((len(task_classes), len(names)))
    for row, classes in enumerate(task_classes):
        for name in classes:
            shares[row, names.index(name)] += 1.0 / len(classes)
    return shares


def task_effects(losses: Float[np.ndarray, "T K"], task_classes: tuple[tuple[str, ...], ...] | None) -> TaskEffects:
    """The effects behind losses of the same tasks at K levels; without classes, tasks are independent.

    The ratio of both variances is that of highest restricted likelihood, all levels together (each in units of its own
    spread); the effects are best linear unbiased predictions scaled up to it, for they are shrunken.
    """
    n_tasks, n_levels = losses.shape
    centred = losses - losses.mean(axis=0)
    centred = np.where(centred.std(axis=0) > 1e-12 * np.abs(losses).max(axis=0), centred, 0.0)  # alike but for rounding
    if task_classes is None or n_tasks < 3:
        return TaskEffects(np.zeros((0, n_levels)), centred / np.sqrt(n_tasks * max(n_tasks - 1, 1)), 0.0)
    assert len(task_classes) == n_tasks
    z = membership(task_classes)
    unit = np.where(centred.any(axis=0), centred.std(axis=0), 1.0)
    ratio, sigma2 = _variances(centred / unit, z)
    sigma = np.sqrt(sigma2) * unit
    own = centred / np.maximum(np.sqrt(np.mean(centred**2, axis=0)), 1e-300)
    if ratio == 0.0:
        return TaskEffects(np.zeros((z.shape[1], n_levels)), own * sigma / n_tasks, 0.0)
    guess = np.linalg.solve(z.T @ z + np.eye(z.shape[1]) / ratio, z.T @ centred)
    rest = centred - z @ guess
    in_mean = z.mean(axis=0)[:, None]
    # Root mean squares of the guesses go up to σ_u and σ_e, weighed as they enter the mean.
    by_class = in_mean * guess
    wanted = sigma * np.sqrt(ratio) * np.sqrt((in_mean**2).sum())
    by_class *= wanted / np.maximum(np.sqrt((by_class**2).sum(axis=0)), 1e-300)
    by_task = rest / np.maximum(np.sqrt((rest**2).sum(axis=0)), 1e-300) * sigma / np.sqrt(n_tasks)
    classes, tasks = (by_class**2).sum(axis=0), (by_task**2).sum(axis=0)
    return TaskEffects(by_class, by_task, float(np.mean(classes / np.maximum(classes + tasks, 1e-300))))


def _variances(scaled: Float[np.ndarray, "T K"], z: Float[np.ndarray, "T C"]) -> tuple[float, Float[np.ndarray, " K"]]:
    """(σ_u² / σ_e², σ_e² of each level) by restricted likelihood: the mean is projected out, then one eigenproblem."""
    n_tasks = len(scaled)
    # An orthonormal basis of what is orthogonal to the mean; there the covariance is σ_e² (I + ratio · P Z Zᵀ Pᵀ).
    basis = np.linalg.qr(np.column_stack([np.ones(n_tasks), np.eye(n_tasks)[:, 1:]]))[0][:, 1:]
    values, vectors = np.linalg.eigh(basis.T @ z @ z.T @ basis)
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ (basis.T @ scaled)
    deviances = []
    for ratio in _RATIOS:
        spread = 1.0 + ratio * values
        sigma2 = np.maximum(np.mean(rotated**2 / spread[:, None], axis=0), 1e-300)
        deviances.append(float(((n_tasks - 1) * np.log(sigma2)).sum() + scaled.shape[1] * np.log(spread).sum()))
    # Levels share their tasks, so their likelihoods are no independent evidence: only the best ratio is taken of them.
    ratio = float(_RATIOS[int(np.argmin(deviances))])
    return ratio, np.asarray(np.mean(rotated**2 / (1.0 + ratio * values)[:, None], axis=0))
