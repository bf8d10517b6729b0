"""How prompts share blocks, and what the blocks compute, against one prompt at a time."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from reptile_scaling.model.attention import NARROWEST_BLOCK, ragged_attention, ragged_layout
from reptile_scaling.model.packing import pack_tokens

CPU = torch.device("cpu")
prompt_lengths = st.lists(st.integers(1, 50), min_size=1, max_size=30)


@given(prompt_lengths)
def test_every_token_has_a_place_of_its_own(lengths: list[int]) -> None:
    layout = ragged_layout(pack_tokens([[7] * n for n in lengths], [np.arange(len(lengths))]), CPU, torch.float32)
    rows = torch.arange(sum(lengths))
    assert torch.equal(layout.tokens.empty(layout.tokens.fill(rows)), rows)
    answers = torch.arange(len(lengths))
    assert torch.equal(layout.answers.empty(layout.answers.fill(answers)), answers)
    assert layout.tokens.hidden_NMB.shape[1] == max(NARROWEST_BLOCK, *lengths)


@given(prompt_lengths)
def test_a_query_sees_its_own_prompt_up_to_itself(lengths: list[int]) -> None:
    layout = ragged_layout(pack_tokens([[7] * n for n in lengths], [np.arange(len(lengths))]), CPU, torch.float32)
    seen_P = layout.tokens.empty((layout.tokens.hidden_NMB == 0).sum(-1)[..., None])[:, 0]
    assert seen_P.tolist() == [position + 1 for n in lengths for position in range(n)]
    seen_S = layout.answers.empty((layout.answers.hidden_NMB == 0).sum(-1)[..., None])[:, 0]
    assert seen_S.tolist() == lengths


def test_blocks_waste_little_on_prompts_of_mixed_lengths() -> None:
    lengths = np.random.default_rng(0).integers(4, 50, 200)
    layout = ragged_layout(pack_tokens([[7] * n for n in lengths], [np.arange(200)]), CPU, torch.float32)
    assert lengths.sum() / layout.tokens.row_at_NM.numel() > 0.9


def test_shared_blocks_equal_one_prompt_at_a_time() -> None:
    lengths, heads, key_heads, width = [3, 17, 1, 40, 8], 4, 2, 8
    generator = torch.Generator().manual_seed(0)
    packed = pack_tokens([[7] * n for n in lengths], [np.arange(len(lengths))])
    layout = ragged_layout(packed, CPU, torch.float32)
    query, key, value = (
        torch.randn(1, h, sum(lengths), width, generator=generator).requires_grad_()
        for h in (heads, key_heads, key_heads)
    )
    weight = torch.randn(sum(lengths), heads, width, generator=generator)
    together, _ = ragged_attention(torch.nn.Module(), query, key, value, None, ragged=layout)
    alone = []
    for start, length in zip(packed.starts.tolist(), lengths, strict=True):
        q, k, v = (x[:, :, start : start + length] for x in (query, key, value))
        alone.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1))
    expected = torch.cat(alone)
    torch.testing.assert_close(together[0], expected)
    gradients = [torch.autograd.grad((x * weight).sum(), (query, key, value)) for x in (together[0], expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
