"""Tiny configurations of the families that transformers knows, with random weights."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from reptile_scaling.model.loading import LanguageModel

VOCABULARY = 300
USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
WITH_HEAD_WIDTH = {"head_dim": 16}
CAUSAL: Mapping[str, dict[str, Any]] = {
    "llama": USUAL, "mistral": USUAL, "qwen2": USUAL, "qwen3": USUAL | WITH_HEAD_WIDTH,
    "gemma": USUAL | WITH_HEAD_WIDTH, "gemma2": USUAL | WITH_HEAD_WIDTH,
    "gemma3_text": USUAL | WITH_HEAD_WIDTH, "phi": USUAL, "phi3": USUAL,
    "olmo": USUAL, "olmo2": USUAL, "gpt_neox": USUAL, "stablelm": USUAL, "cohere": USUAL, "granite": USUAL,
    "smollm3": USUAL, "starcoder2": USUAL, "gpt2": GPT,
    "opt": USUAL | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "falcon": {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gptj": GPT | {"rotary_dim": 8}, "mixtral": USUAL | {"num_local_experts": 4},
    "qwen3_moe": USUAL | WITH_HEAD_WIDTH
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2},
    "lfm2": USUAL | {"layer_types": ["conv", "full_attention"]}, "glm4": USUAL | WITH_HEAD_WIDTH, "exaone4": USUAL,
    "llama4_text": USUAL | WITH_HEAD_WIDTH | {"num_local_experts": 4},
    "gpt_oss": USUAL | WITH_HEAD_WIDTH | {"num_local_experts": 4}, "nemotron": USUAL, "ministral3": USUAL,
}  # fmt: skip
ENCODERS: Mapping[str, dict[str, Any]] = {
    "bert": USUAL, "roberta": USUAL, "electra": USUAL | {"embedding_size": 64},
    "modernbert": USUAL | {"cls_token_id": 1, "sep_token_id": 2},
    "deberta-v2": USUAL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
}  # fmt: skip


def tiny_family(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Two layers of width 64 with random weights, in the family's own modelling code."""
    torch.manual_seed(0)
    is_encoder = family in ENCODERS
    config = AutoConfig.for_model(family, **(ENCODERS if is_encoder else CAUSAL)[family])
    model = (AutoModel if is_encoder else AutoModelForCausalLM).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sinks" in name:  # left as the allocator had it
                parameter.normal_()
    return LanguageModel(model.to(dtype).eval().requires_grad_(False), None, family, is_encoder)
