"""What Adam knows of earlier gradients, where the inner loop of one task goes on from that of another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.model.adapters import Adapters, join_adapters


@dataclass(frozen=True)
class AdamMoments:
    """Adam's running means of squared gradients (Kingma & Ba 2015, arXiv:1412.6980) of one cell `[…]` or T tasks."""

    squares: Adapters
    steps: Float[Tensor, "..."]
    """Gradients seen so far: a number, or `[T]`."""

    def rows(self, tasks: slice) -> "AdamMoments":
        """Those of some tasks of a stack."""
        return AdamMoments(self.squares.rows(tasks), self.steps[tasks])

    def repeated(self, n_tasks: int) -> "AdamMoments":
        """One cell's as a stack of equal ones."""
        return AdamMoments(self.squares.repeated(n_tasks), self.steps.expand(n_tasks))

    def mean(self) -> "AdamMoments":
        """A stack's mean: what goes on to the cell's next tasks."""
        return AdamMoments(self.squares.map(lambda tensor: tensor.mean(0)), self.steps.mean(0))

    @classmethod
    def join(cls, stacks: Sequence["AdamMoments"]) -> "AdamMoments":
        """Stacks one after another."""
        return cls(join_adapters(s.squares for s in stacks), torch.cat([s.steps for s in stacks]))

    @classmethod
    def join_if_any(cls, stacks: "Sequence[AdamMoments | None]") -> "AdamMoments | None":
        """Stacks one after another; None where no task has any."""
        found = [stack for stack in stacks if stack is not None]
        return cls.join(found) if found else None

    @classmethod
    def none_yet(cls, theta: Adapters) -> "AdamMoments":
        """Before the first gradient."""
        return cls(theta.map(torch.zeros_like), torch.zeros((), device=next(iter(theta.tensors.values())).device))
