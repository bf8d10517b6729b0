"""Tiny models of the real architectures, in their own modelling code."""

from collections.abc import Sequence

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.backbone import Backbone
from reptile_scaling.model.engine import Engine, tokenize_prompts
from reptile_scaling.model.heads import fresh_head
from reptile_scaling.model.prefix_cache import PrefixCache

FAMILIES = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8},
    "mistral": {"num_key_value_heads": 2},
    "gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "phi": {"num_key_value_heads": 2, "partial_rotary_factor": 0.5},
    "phi3": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 64, "n_positions": 64},
}


def tiny_model(family: str, vocab_size: int, n_layers: int = 3, width: int = 32) -> torch.nn.Module:
    """Three layers of width 32 with random weights, in the family's own modelling code."""
    sizes = {
        "vocab_size": vocab_size, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": n_layers,
        "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**sizes, **FAMILIES[family]})
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def encode(backbone: Backbone, texts: Sequence[str], max_length: int = 32) -> Engine:
    """The texts as bare prompts, with a prefix cache where there is anything below the adapters."""
    token_ids = tokenize_prompts(backbone.tokenizer, texts, "{text}", max_length)
    return Engine(backbone, token_ids, PrefixCache(backbone, token_ids) if backbone.first_adapted else None)


def initialisations(engine: Engine, n_tasks: int, n_way: int) -> list[Adapters]:
    backbone = engine.backbone
    fresh = [
        Adapters(
            backbone.fresh_lora(torch.Generator().manual_seed(t)) | fresh_head(n_way, backbone.width, backbone.device)
        )
        for t in range(n_tasks)
    ]
    generator = torch.Generator().manual_seed(99)
    return [one.map(lambda x: x + 0.02 * torch.randn(x.shape, generator=generator)) for one in fresh]
