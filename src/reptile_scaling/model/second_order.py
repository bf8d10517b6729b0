"""Gradients that can be differentiated again, for operations whose fast backward cannot."""

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients_to(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Σ gradsᵀ · d outputs / d input, as part of the graph; None for an input that asks for none."""
    asking = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(outputs, asking, grads, create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)
