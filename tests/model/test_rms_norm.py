"""The quick norm against the Hub's own, and what is left alone."""

import pytest
import torch
from torch import nn

from reptile_scaling.model.rms_norm import FrozenRmsNorm, quicken_norms
from toy_models import tiny_model


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "mistral"])
def test_norms_of_every_family_are_replaced_and_equal(family: str) -> None:
    slow, quick = tiny_model(family, 50), tiny_model(family, 50)
    for model in (slow, quick):
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    quicken_norms(quick)
    norms = [m for m in quick.modules() if "Norm" in type(m).__name__]
    assert norms and all(isinstance(m, FrozenRmsNorm) for m in norms)
    outputs, gradients = [], []
    for model in (slow, quick):
        embedded = model.get_input_embeddings()(torch.arange(20)[None]).detach().requires_grad_()
        outputs.append(model(inputs_embeds=embedded).logits)
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), embedded)[0])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_norm_that_computes_something_else_is_left_alone() -> None:
    class OddRMSNorm(nn.RMSNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    model = nn.Sequential(OddRMSNorm(8, eps=1e-6))
    quicken_norms(model)
    assert isinstance(model[0], OddRMSNorm)
