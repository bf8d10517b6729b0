"""Which point of a cell's meta-training is read on the test tasks, and when validation tasks are asked.

Validation stands at geometrically spaced meta-steps besides every `eval_interval`, so that an early optimum is
bracketed: few tasks visited often are at their best after a handful of meta-steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reptile_scaling.config import Config
from reptile_scaling.learning.meta_state import MetaState
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.runs.records import EvalRow

MEAN_DECAY = 0.98
"""Of the running mean of θ, a meta-step."""
MEAN = "mean/"
PREFIX, SQUARES, STEPS, META_STEP, LOSS = "chosen/", "chosen_square/", "chosen_steps", "chosen_meta_step", "chosen_loss"
"""How a checkpoint names the chosen point."""


@dataclass(frozen=True)
class Chosen:
    """The initialisation of a cell's chosen point."""

    theta: Adapters
    inner_moments: AdamMoments | None
    meta_step: int
    validation_loss: float

    def tensors(self) -> dict[str, np.ndarray]:
        """All that `restored_choice` needs, by name."""
        found = {PREFIX + name: tensor for name, tensor in self.theta.tensors.items()}
        if self.inner_moments is not None:
            found |= {SQUARES + name: tensor for name, tensor in self.inner_moments.squares.tensors.items()}
            found[STEPS] = self.inner_moments.steps
        arrays = {name: tensor.contiguous().cpu().numpy() for name, tensor in found.items()}
        return arrays | {META_STEP: np.array(self.meta_step), LOSS: np.array(self.validation_loss)}


def restored_choice(saved: Mapping[str, np.ndarray], device: torch.device) -> Chosen | None:
    """The chosen point in a checkpoint; None where it holds none."""
    if META_STEP not in saved:
        return None

    def part(prefix: str) -> Adapters:
        own = {name.removeprefix(prefix): array for name, array in saved.items() if name.startswith(prefix)}
        return Adapters({name: torch.from_numpy(array).to(device) for name, array in own.items()})

    moments = AdamMoments(part(SQUARES), torch.from_numpy(saved[STEPS]).to(device)) if STEPS in saved else None
    return Chosen(part(PREFIX), moments, int(saved[META_STEP]), float(saved[LOSS]))


def restored_mean(mean: Adapters | None, saved: Mapping[str, np.ndarray]) -> Adapters | None:
    """The running mean in a checkpoint, for a cell that keeps one."""
    if mean is None:
        return None
    device = next(iter(mean.tensors.values())).device
    return Adapters({name: torch.from_numpy(saved[MEAN + name]).to(device) for name in mean.tensors})


def better(chosen: Chosen | None, state: MetaState, validation_loss: float) -> Chosen | None:
    """The state's initialisation where its validation loss is the lowest so far, else what was chosen before."""
    if not np.isfinite(validation_loss) or (chosen is not None and validation_loss >= chosen.validation_loss):
        return chosen
    return Chosen(state.initialisation.map(torch.clone), state.inner_moments, state.meta_step, validation_loss)


def running_mean(mean: Adapters, theta: Adapters, meta_step: int) -> Adapters:
    """The exponential mean of θ after `meta_step` steps; young means forget their beginning sooner."""
    decay = min(MEAN_DECAY, (1 + meta_step) / (10 + meta_step))
    return mean.combine(theta, lambda m, x: decay * m + (1 - decay) * x)


def evaluation_is_due(meta_step: int, config: Config) -> bool:
    """Before the first meta-step, at 1, 2, 5, 10, 20, 50, …, at every `eval_interval`, and after the last."""
    leading = meta_step
    while leading and leading % 10 == 0:
        leading //= 10
    is_spaced = leading in (0, 1, 2, 5)
    return is_spaced or meta_step % config.eval_interval == 0 or meta_step == config.num_meta_steps


def has_passed_its_best(rows: Sequence[EvalRow], config: Config) -> bool:
    """Whether `patience` evaluations at every `eval_interval` have gone by since the lowest loss.

    The geometrically spaced ones bracket an optimum; meta-steps 1, 2, 5 and 10 are too near to one another, and
    validation too noisy, to end a cell that has hardly begun.
    """
    if config.patience is None or not rows:
        return False
    best = min(rows, key=lambda row: row.validation_loss).meta_step
    since = [row for row in rows if row.meta_step > best and row.meta_step % config.eval_interval == 0]
    return len(since) >= config.patience
