"""RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) of a frozen scale, in few passes over memory.

The Hub's modules compute it in about fifteen, forward and backward, which on a CPU is a tenth of an inner step.
Suffixes: P packed tokens · D width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from reptile_scaling.model.second_order import gradients_to

# Of the norms themselves in one precision's resolution: the order of summation may differ, nothing else.
TOLERANCE_IN_EPS = 16


class FrozenRmsNorm(nn.Module):
    """`x / √(mean x² + ε) · scale` with no gradient to the scale."""

    scale: Tensor

    def __init__(self, scale: Tensor, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach())
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """`[…, D] → […, D]`."""
        y: Tensor = _RmsNorm.apply(x, self.scale, self.epsilon)
        return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale_D: Tensor, epsilon: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        inverse_rms = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, scale_D, inverse_rms)
        y: Tensor = (x * inverse_rms.to(x.dtype)).mul_(scale_D)
        return y

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        """With u = x · inverse_rms and h = g · scale: `inverse_rms · (h − u · mean(h · u))`."""
        x, scale_D, inverse_rms = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives are wanted, which torch's own operations have
            (gx,) = gradients_to([plain_rms_norm(x, scale_D, ctx.epsilon)], [x], grad)
            assert gx is not None
            return gx, None, None
        h = grad[0] * scale_D
        mean_hx = torch.linalg.vecdot(h, x)[..., None].float() / x.shape[-1]
        along_x = -mean_hx * inverse_rms.square()
        gx = h.addcmul_(x, along_x.to(x.dtype)).mul_(inverse_rms.to(x.dtype))
        return gx, None, None


def plain_rms_norm(x: Tensor, scale_D: Tensor, epsilon: float) -> Tensor:
    """The same by torch's own operations."""
    inverse_rms = (x.float().square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return (x * inverse_rms.to(x.dtype)) * scale_D


def quicken_norms(model: nn.Module) -> None:
    """Replaces in place every RMSNorm that does what it is called; one that computes anything else stays."""
    for name, module in list(model.named_modules()):
        if "RMSNorm" not in type(module).__name__:
            continue
        fast = _fast_twin(module)
        if fast is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, fast)


@torch.no_grad()
def _fast_twin(module: nn.Module) -> FrozenRmsNorm | None:
    """The same norm, if it gives the same on a random input: scales are stored as s or, by Gemma, as s − 1."""
    weight = getattr(module, "weight", None)
    epsilon = next((value for name in ("variance_epsilon", "eps") if (value := getattr(module, name, None))), None)
    if weight is None or epsilon is None:
        return None
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(4, len(weight), generator=generator).to(weight.device, weight.dtype)
    expected = module(probe)
    tolerance = TOLERANCE_IN_EPS * torch.finfo(weight.dtype).eps
    for scale in (weight, 1 + weight):
        twin = FrozenRmsNorm(scale, epsilon)
        if torch.allclose(twin(probe), expected, rtol=tolerance, atol=tolerance):
            return twin
    return None
