"""Optimisers of the inner loop. All act on each number by itself, so stacked tasks are each optimised alone."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reptile_scaling.errors import InputError
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import Adapters

# β1 = 0 as in Nichol et al. 2018, §6: momentum would carry the last task's direction into few, short steps.
ADAM_BETA2, ADAM_EPSILON = 0.999, 1e-8


class FreshOptimizer:
    """torch's own, from no state."""

    moments: AdamMoments | None = None

    def __init__(self, optimizer: torch.optim.Optimizer, variables: list[Tensor]) -> None:
        self._optimizer = optimizer
        self._variables = variables

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Changes the parameters in place; `gradients` are in their order."""
        for variable, gradient in zip(self._variables, gradients, strict=True):
            # The fused kernel walks both in memory order.
            is_alike = gradient.stride() == variable.stride()
            variable.grad = gradient if is_alike else torch.empty_like(variable).copy_(gradient)
        self._optimizer.step()
        self._optimizer.zero_grad()


class ContinuedAdam:
    """Adam with β1 = 0 from moments of its own for each task, who may have seen different numbers of gradients."""

    def __init__(self, parameters: Adapters, learning_rate: float, moments: AdamMoments) -> None:
        self._variables = parameters.tensors
        self._learning_rate = learning_rate
        of_parameters = {name: moments.squares.tensors[name].clone() for name in parameters.tensors}
        self.moments: AdamMoments | None = AdamMoments(Adapters(moments.squares.tensors | of_parameters), moments.steps)
        self._squares = of_parameters

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Changes the parameters in place; `gradients` are in their order."""
        assert self.moments is not None
        steps_T = self.moments.steps + 1
        bias_T = 1 - ADAM_BETA2**steps_T
        for (name, variable), gradient in zip(self._variables.items(), gradients, strict=True):
            square = self._squares[name].mul_(ADAM_BETA2).addcmul_(gradient, gradient, value=1 - ADAM_BETA2)
            bias = bias_T.view(-1, *(1,) * (variable.ndim - 1))
            variable.addcdiv_(gradient, (square / bias).sqrt_().add_(ADAM_EPSILON), value=-self._learning_rate)
        self.moments = AdamMoments(self.moments.squares, steps_T)


InnerOptimizer = FreshOptimizer | ContinuedAdam


def _adam(parameters: Adapters, learning_rate: float, moments: AdamMoments | None) -> InnerOptimizer:
    if moments is not None:
        return ContinuedAdam(parameters, learning_rate, moments)
    variables = list(parameters.tensors.values())
    adam = torch.optim.Adam(variables, lr=learning_rate, betas=(0.0, ADAM_BETA2), eps=ADAM_EPSILON, fused=True)
    return FreshOptimizer(adam, variables)


def _sgd(parameters: Adapters, learning_rate: float, moments: AdamMoments | None) -> InnerOptimizer:
    assert moments is None, "SGD has no moments to go on from"
    variables = list(parameters.tensors.values())
    return FreshOptimizer(torch.optim.SGD(variables, lr=learning_rate), variables)


INNER_OPTIMIZERS: dict[str, Callable[[Adapters, float, AdamMoments | None], InnerOptimizer]] = {
    "adam": _adam,
    "sgd": _sgd,
}
"""(a stack of parameters `[T, …]`, learning rate, moments to go on from) → what steps along their gradients."""


def make_optimizer(
    name: str, parameters: Adapters, learning_rate: float, moments: AdamMoments | None
) -> InnerOptimizer:
    """One of INNER_OPTIMIZERS on a stack `[T, …]`; with `moments` Adam goes on where it was."""
    if name not in INNER_OPTIMIZERS:
        raise InputError(f"inner_optimizer = {name!r} is unknown: use {' or '.join(INNER_OPTIMIZERS)}")
    return INNER_OPTIMIZERS[name](parameters, learning_rate, moments)
