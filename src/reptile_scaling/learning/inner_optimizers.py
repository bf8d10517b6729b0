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


Directions = Callable[[Sequence[Tensor]], list[Tensor]]
"""A step's gradients → the directions to go against, all `[T, …]`."""


def adam_directions() -> Directions:
    """Adam's with β1 = 0 from no state."""
    squares: list[Tensor] = []
    steps = 0

    def directions(gradients: Sequence[Tensor]) -> list[Tensor]:
        nonlocal squares, steps
        squares, steps = squares or [torch.zeros_like(g) for g in gradients], steps + 1
        for square, g in zip(squares, gradients, strict=True):
            square.mul_(ADAM_BETA2).addcmul_(g, g, value=1 - ADAM_BETA2)
        bias = 1 - ADAM_BETA2**steps
        return [g / ((v / bias).sqrt() + ADAM_EPSILON) for v, g in zip(squares, gradients, strict=True)]

    return directions


DIRECTIONS: dict[str, Callable[[], Directions]] = {
    "adam": adam_directions,
    "sgd": lambda: list,
    "sign": lambda: lambda gradients: [gradient.sign() for gradient in gradients],
}
"""By inner optimiser: what its rate is multiplied with, from no state."""


class RatedOptimizer:
    """Steps along an optimiser's directions at a rate for each task, step and matrix."""

    moments: AdamMoments | None = None

    def __init__(self, parameters: Adapters, log_rates: Adapters, directions: Directions) -> None:
        """`log_rates` `[T, K]` are under the parameters' names; later steps take the last one's."""
        self._variables, self._directions, self._steps = parameters.tensors, directions, 0
        self._rates = {name: log_rates.tensors[name].exp() for name in parameters.tensors}
        self.last_directions: list[Tensor] = []

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Changes the parameters in place; `gradients` are in their order."""
        self.last_directions = self._directions(gradients)
        for (name, variable), direction in zip(self._variables.items(), self.last_directions, strict=True):
            rates_TK = self._rates[name]
            rate_T = rates_TK[:, min(self._steps, rates_TK.shape[1] - 1)]
            variable.sub_(rate_T.view(-1, *(1,) * (variable.ndim - 1)) * direction)
        self._steps += 1


InnerOptimizer = FreshOptimizer | ContinuedAdam | RatedOptimizer


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


def _sign(parameters: Adapters, learning_rate: float, moments: AdamMoments | None) -> InnerOptimizer:
    assert moments is None, "signs have no moments to go on from"
    log_rates = parameters.map(lambda x: x.new_full((len(x), 1), learning_rate).log())
    return RatedOptimizer(parameters, log_rates, DIRECTIONS["sign"]())


INNER_OPTIMIZERS: dict[str, Callable[[Adapters, float, AdamMoments | None], InnerOptimizer]] = {
    "adam": _adam,
    "sgd": _sgd,
    "sign": _sign,
}
"""(a stack of parameters `[T, …]`, learning rate, moments to go on from) → what steps along their gradients."""


def make_optimizer(
    name: str,
    parameters: Adapters,
    learning_rate: float,
    moments: AdamMoments | None,
    log_rates: Adapters | None = None,
) -> InnerOptimizer:
    """One of INNER_OPTIMIZERS on a stack `[T, …]`; with `moments` Adam goes on where it was, with `log_rates` `[T, K]`
    each step and matrix has a rate of its own."""
    if name not in INNER_OPTIMIZERS:
        raise InputError(f"inner_optimizer = {name!r} is unknown: use {' or '.join(INNER_OPTIMIZERS)}")
    if log_rates is not None:
        return RatedOptimizer(parameters, log_rates, DIRECTIONS[name]())
    return INNER_OPTIMIZERS[name](parameters, learning_rate, moments)
