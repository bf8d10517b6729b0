"""Every family that is said to be served gives what the Hub's own forward gives, on the path that is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reptile_scaling.bench.families import CAUSAL, ENCODERS, tiny_family
from reptile_scaling.cli import check
from reptile_scaling.errors import InputError
from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters, stack_adapters
from reptile_scaling.model.backbone import FAST, PADDED, WHOLE_LAST_LAYER, Backbone, Batch, LoraShape
from reptile_scaling.model.blocks import decoder_of, is_transposed
from reptile_scaling.model.packed_forward import PackedForward, PlacedBatch
from reptile_scaling.model.packing import pack_tokens

PATHS = dict.fromkeys([*CAUSAL, *ENCODERS], FAST)
PATHS |= dict.fromkeys(["opt", "llama4_text"], WHOLE_LAST_LAYER)
PATHS |= dict.fromkeys(["stablelm", "bloom", "falcon", "mamba", "lfm2", "nemotron", "deberta-v2"], PADDED)
SHAPED_AS_READ = {"gpt2", "gptj"}
"""Their code gives what it returns the shape of what it read, so that the last layer hands on every row."""
ASK_WITH_ALL = {"phi3", "gpt_neox", "olmo2", "ministral3", *SHAPED_AS_READ}
"""Their queries, keys and values come from one layer, or what follows wants as many of each."""
TASKS = [np.arange(0, 4), np.arange(4, 9), np.arange(9, 12)]


def random_sets(backbone: Backbone) -> list[Adapters]:
    sets = []
    for seed in range(len(TASKS)):
        generator = torch.Generator().manual_seed(seed)
        lora = backbone.fresh_lora(generator)
        sets.append(Adapters({n: torch.randn(t.shape, generator=generator) * 0.1 for n, t in lora.items()}))
    return sets


def slowly(family: str, sets: list[Adapters], token_ids: list[list[int]], scale: float) -> torch.Tensor:
    """One prompt at a time through a model of its own, with one task's adapters merged into the weights."""
    rows = []
    for task, adapters in zip(TASKS, sets, strict=True):
        fresh = tiny_family(family)
        for name in (n for n in adapters.tensors if n.endswith(LORA_A)):
            site = name.removesuffix(LORA_A)
            layer = fresh.model.get_submodule(site)
            delta = scale * adapters.tensors[site + LORA_B] @ adapters.tensors[name]
            layer.weight += delta.T if is_transposed(layer) else delta
        for u in task:
            hidden = decoder_of(fresh.model)(input_ids=torch.tensor([token_ids[u]])).last_hidden_state[0]
            rows.append(hidden.mean(0) if fresh.is_encoder else hidden[-1])
    return torch.stack(rows)


@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize("family", PATHS)
@torch.no_grad()
def test_features_equal_the_hubs_forward_with_merged_weights(family: str, top: int | None) -> None:
    backbone = Backbone(tiny_family(family), LoraShape(4, 8.0, top))
    assert backbone.path == PATHS[family]
    rng = np.random.default_rng(0)
    token_ids = [rng.integers(3, 300, rng.integers(4, 15)).tolist() for _ in range(12)]
    sets = random_sets(backbone)
    found = backbone.features(backbone.place(pack_tokens(token_ids, TASKS)), stack_adapters(sets))
    expected = slowly(family, sets, token_ids, scale=2.0)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5  # fp32 sums in another order


@pytest.mark.parametrize("family", ["falcon", "mamba", "deberta-v2"])
def test_gradients_of_the_padded_path_are_those_of_the_hubs_forward(family: str) -> None:
    backbone = Backbone(tiny_family(family), LoraShape(4, 8.0, 1))
    token_ids = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]
    variables = stack_adapters(random_sets(backbone)).map(lambda tensor: tensor.requires_grad_())
    batch = backbone.place(pack_tokens(token_ids, [np.array([n]) for n in range(3)]))
    together = torch.autograd.grad(backbone.features(batch, variables).square().sum(), list(variables.tensors.values()))
    for t, ids in enumerate(token_ids):
        own = Adapters({n: v.detach()[t : t + 1].requires_grad_() for n, v in variables.tensors.items()})
        alone = backbone.features(backbone.place(pack_tokens([ids], [np.array([0])])), own).square().sum()
        for ours, theirs in zip(together, torch.autograd.grad(alone, list(own.tensors.values())), strict=True):
            torch.testing.assert_close(ours[t], theirs[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", [family for family in CAUSAL if PATHS[family] == FAST])
def test_last_layer_hands_on_answer_rows_alone_where_the_model_takes_them(family: str) -> None:
    forward = Backbone(tiny_family(family), LoraShape(4, 8.0, 1))._forward
    assert isinstance(forward, PackedForward) and forward.is_cut == (family not in SHAPED_AS_READ)
    assert forward.asks_apart == (family not in ASK_WITH_ALL)


@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize("family", [family for family in PATHS if PATHS[family] != PADDED])
def test_a_batch_that_is_read_again_gives_what_a_new_one_does(family: str, top: int | None) -> None:
    """What is kept of a batch depends on no adapter, also where adapters below have moved what a layer reads."""
    backbone = Backbone(tiny_family(family), LoraShape(4, 8.0, top))
    packed = pack_tokens([[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]], [np.array([n]) for n in range(3)])
    again = backbone.place(packed)
    entering_P = backbone.entering_activations(again) if top else None
    sets = random_sets(backbone)

    def read(batch: Batch, order: list[int]) -> list[torch.Tensor]:
        phi = stack_adapters([sets[i] for i in order]).map(lambda tensor: tensor.requires_grad_())
        features = backbone.features(batch, phi, entering_P=entering_P)
        gradients = torch.autograd.grad(features.square().sum(), list(phi.tensors.values()))
        return [features.detach(), *gradients]

    for order in ([0, 1, 2], [2, 0, 1], [1, 1, 0]):
        assert isinstance(again, PlacedBatch) and (again.kept or order == [0, 1, 2])
        for ours, theirs in zip(read(again, order), read(backbone.place(packed), order), strict=True):
            assert torch.equal(ours, theirs)


def test_frozen_features_and_readings_without_gradients_do_not_meet_what_is_kept_of_a_batch() -> None:
    backbone = Backbone(tiny_family("llama"), LoraShape(4, 8.0, 1))
    batch = backbone.place(pack_tokens([[5, 6, 7], [8, 9]], [np.array([0, 1])]))
    phi = stack_adapters(random_sets(backbone)[:1])
    assert isinstance(batch, PlacedBatch)
    with torch.no_grad():
        frozen, read = backbone.features(batch), backbone.features(batch, phi)
    assert not batch.kept
    backbone.features(batch, phi)
    for kept in batch.kept_tensors:
        kept.fill_(torch.nan)
    with torch.no_grad():
        assert torch.equal(backbone.features(batch), frozen) and torch.equal(backbone.features(batch, phi), read)
    assert batch.kept_tensors and backbone.features(batch, phi).isnan().any()


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_check_leaves_the_weights_and_their_precision_as_they_were(family: str) -> None:
    model = tiny_family(family, torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    backbone = Backbone(model, LoraShape(4, 8.0))
    assert {attempt.precision for attempt in backbone.attempts} == {"float32", "bfloat16"}
    after = {id(tensor): tensor for tensor in model.model.state_dict().values()}
    wrapped = {".base": "", ".module": "", ".scale": ".weight"}
    kept = {}
    for name, tensor in model.model.state_dict().items():
        for ours, theirs in wrapped.items():
            name = name.replace(ours, theirs)
        kept[name] = tensor
    assert len(after) > 0 and before.keys() <= kept.keys()
    assert all(torch.equal(before[name], kept[name]) and before[name].dtype == kept[name].dtype for name in before)


def test_a_prompt_longer_than_a_sliding_window_is_an_input_error() -> None:
    model = tiny_family("mistral")
    model.model.config.sliding_window = 10
    for layer in model.model.model.layers:
        layer.self_attn.config.sliding_window = 10
    backbone = Backbone(model, LoraShape(4, 8.0))
    batch = backbone.place(pack_tokens([list(range(3, 14))], [np.array([0])]))
    with pytest.raises(InputError, match="11 tokens, but some layers of this model attend within 10: lower max_length"):
        backbone.features(batch)


def test_a_model_that_no_path_computes_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Backbone.features
    monkeypatch.setattr(Backbone, "features", lambda *args, **kwargs: features(*args, **kwargs) * 1.001)
    with pytest.raises(InputError, match=r"'llama' .* differs by 1.0e-03, .* allowed.*: use another model"):
        Backbone(tiny_family("llama"), LoraShape(4, 8.0))


def test_the_slower_path_says_so(caplog: pytest.LogCaptureFixture) -> None:
    Backbone(tiny_family("falcon"), LoraShape(4, 8.0))
    assert "model 'falcon' runs on the slower, padded path (fast, float32: differs by 4" in caplog.text


def test_layers_that_tokens_are_routed_to_carry_no_lora() -> None:
    assert any("router" in site for site in Backbone(tiny_family("llama4_text"), LoraShape(4, 8.0)).left_out)
    with pytest.raises(InputError, match="not every token passes through .*dt_proj: leave it out"):
        Backbone(tiny_family("mamba"), LoraShape(4, 8.0, None, ("in_proj", "dt_proj")))


def test_the_table_of_the_documents_is_what_the_tests_hold() -> None:
    table = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    for family, path in PATHS.items():
        assert f"| {family} | {path} |" in table, family


def test_check_prints_what_was_compared_and_the_path(tokenizer, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_family("falcon").model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    check(str(tmp_path), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["class"]) == (PADDED, "FalconForCausalLM")
    assert found["attempts"][0]["agreement"]["frozen"] > 0.1 > 1e-2 > found["attempts"][-1]["agreement"]["adapted"]
    check(str(tmp_path), as_json=False)
    assert f"{PADDED}, bfloat16" in (printed := capsys.readouterr().out) or f"{PADDED}, float32" in printed
