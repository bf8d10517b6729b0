"""A base that bitsandbytes has quantised, on the CPU, where its kernels are slow but the same path runs as on CUDA."""

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

from reptile_scaling.bench.peers import SequentialPeft
from reptile_scaling.config import make_config
from reptile_scaling.model.adapters import Adapters, stack_adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.heads import fresh_head
from reptile_scaling.model.loading import LanguageModel, quantization_options
from reptile_scaling.model.peft_io import lora_config
from reptile_scaling.model.stacked_lora import StackedLora
from toy_models import encode, tiny_model

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # fp32 sums in another order
TASKS = [np.arange(0, 9), np.arange(30, 34)]


@torch.no_grad()
def well_posed(peft: SequentialPeft, embeddings: torch.Tensor, token_ids: list[list[int]]) -> np.ndarray:
    """`[utterances]`: where PEFT agrees with itself when embeddings move by a millionth. In eight bits an activation on
    the edge between two steps falls to either side by the order of an fp32 sum: there is no one right answer."""
    before, at_rest = embeddings.clone(), peft.features(token_ids)
    agrees = torch.ones(len(token_ids), dtype=torch.bool)
    for seed in range(12):
        noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(seed))
        embeddings.copy_(before * (1 + 1e-6 * noise))
        agrees &= torch.isclose(peft.features(token_ids), at_rest, rtol=1e-3, atol=1e-4).all(1)
    embeddings.copy_(before)
    return agrees.numpy()


# bitsandbytes announces what it casts and what it could install.
@pytest.mark.filterwarnings("ignore::UserWarning:bitsandbytes")
@pytest.mark.parametrize("key", ["load_in_8bit", "load_in_4bit"])
def test_engine_over_a_quantised_base_equals_peft_over_it(key: str, tokenizer, toy_dataset, tmp_path) -> None:
    tiny_model("llama", len(tokenizer), width=64).save_pretrained(tmp_path)
    config = make_config({key: True, "dtype": "float32"})
    models = [
        AutoModelForCausalLM.from_pretrained(
            tmp_path, dtype=torch.float32, **quantization_options(config, torch.float32, "cpu")
        ).eval()
        for _ in range(2)
    ]
    for module in (m for model in models for m in model.modules()):
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False  # a fast path of this processor that rounds to bf16
    engine = encode(Backbone(LanguageModel(models[0], tokenizer, "tiny"), LoraShape(4, 8.0)), toy_dataset.texts)
    backbone = engine.backbone
    wrapped = next(m for m in backbone.model.modules() if isinstance(m, StackedLora))
    assert not wrapped.base.weight.is_floating_point()
    generator = torch.Generator().manual_seed(0)
    adapters = [
        Adapters(backbone.fresh_lora(generator) | fresh_head(3, backbone.width, backbone.device)).map(
            lambda tensor: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        )
        for _ in TASKS
    ]
    peft = SequentialPeft(models[1], lora_config(backbone, "tiny"))
    tasks, embeddings = [], models[1].get_input_embeddings().weight
    for adapter, task in zip(adapters, TASKS, strict=True):
        peft.load(adapter)
        tasks.append(task[well_posed(peft, embeddings, [engine.token_ids[u] for u in task])])
    assert sum(map(len, tasks)) >= 6 and all(map(len, tasks))
    stacked = stack_adapters(adapters).map(lambda tensor: tensor.requires_grad_())
    together = engine.features(engine.prepare(tasks), stacked)
    site = next(name for name in stacked.tensors if name.endswith("layers.0.mlp.up_proj.lora_B"))
    (gradients,) = torch.autograd.grad(together.sum(), [stacked.tensors[site]])
    start = 0
    for t, (task, adapter) in enumerate(zip(tasks, adapters, strict=True)):
        peft.load(adapter)
        alone = peft.features([engine.token_ids[u] for u in task])
        torch.testing.assert_close(together[start : start + len(task)], alone, **TOLERANCE)
        weight = next(p for n, p in peft.named_weights() if n == site)
        (gradient,) = torch.autograd.grad(alone.sum(), [weight])
        torch.testing.assert_close(gradients[t], gradient, **TOLERANCE)
        start += len(task)
