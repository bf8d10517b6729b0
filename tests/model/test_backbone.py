"""Every trick of the engine against its slow twin: plain transformers and PEFT, padded, one task at a time."""

import numpy as np
import pytest
import torch

from reptile_scaling.bench.peers import SequentialPeft
from reptile_scaling.data.dataset import IntentDataset
from reptile_scaling.errors import InputError
from reptile_scaling.model.adapters import Adapters, stack_adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.engine import Engine, tokenize_prompts
from reptile_scaling.model.heads import fresh_head
from reptile_scaling.model.loading import LanguageModel
from reptile_scaling.model.peft_io import lora_config
from toy_models import FAMILIES, encode, tiny_model

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # fp32 sums in another order
TASKS = [np.arange(0, 9), np.arange(30, 34), np.arange(70, 81)]


def random_adapters(backbone: Backbone, seed: int) -> Adapters:
    """Both factors random: with B = 0 a wrong A would go unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    fresh = Adapters(backbone.fresh_lora(generator) | fresh_head(3, backbone.width, backbone.device))
    return fresh.map(lambda tensor: tensor + 0.1 * torch.randn(tensor.shape, generator=generator))


def encoder_for(family: str, tokenizer, dataset: IntentDataset, top: int | None = None, **options: bool) -> Engine:
    model = LanguageModel(tiny_model(family, len(tokenizer)), tokenizer, family)
    return encode(Backbone(model, LoraShape(4, 8.0, top), **options), dataset.texts)


@pytest.mark.parametrize("top", [None, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_many_tasks_at_once_equal_padded_peft_one_by_one(family: str, top: int | None, tokenizer, toy_dataset) -> None:
    engine = encoder_for(family, tokenizer, toy_dataset, top)
    adapters = [random_adapters(engine.backbone, seed) for seed in range(len(TASKS))]
    together = engine.features(engine.prepare(TASKS), stack_adapters(adapters))
    peft = SequentialPeft(tiny_model(family, len(tokenizer)), lora_config(engine.backbone, "tiny"))
    alone = []
    for task, adapter in zip(TASKS, adapters, strict=True):
        peft.load(adapter)
        alone.append(peft.features([engine.token_ids[u] for u in task], pad_to=24).detach())
    torch.testing.assert_close(together, torch.cat(alone), **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_features_equal_plain_transformers(family: str, tokenizer, toy_dataset) -> None:
    engine = encoder_for(family, tokenizer, toy_dataset, top=1)
    plain = tiny_model(family, len(tokenizer))
    features = engine.features(engine.prepare([TASKS[0]]), None)
    for row, utterance in enumerate(TASKS[0]):
        hidden = plain.base_model(torch.tensor([engine.token_ids[utterance]])).last_hidden_state
        torch.testing.assert_close(features[row], hidden[0, -1], **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_computing_answers_only_changes_nothing(family: str, tokenizer, toy_dataset) -> None:
    figures = []
    for answers_only in (True, False):
        engine = encoder_for(family, tokenizer, toy_dataset, 2, answers_only=answers_only)
        adapters = stack_adapters([random_adapters(engine.backbone, seed) for seed in range(len(TASKS))])
        variables = adapters.map(lambda tensor: tensor.detach().requires_grad_())
        features = engine.features(engine.prepare(TASKS), variables)
        names = [name for name in variables.tensors if "lora" in name]
        gradients = torch.autograd.grad(features.square().sum(), [variables.tensors[name] for name in names])
        figures.append((features.detach(), *gradients))
    for with_trick, without in zip(*figures, strict=True):
        torch.testing.assert_close(with_trick, without, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_activations_equal_recomputed_ones(family: str, tokenizer, toy_dataset) -> None:
    engine = encoder_for(family, tokenizer, toy_dataset, top=1)
    adapters = stack_adapters([random_adapters(engine.backbone, seed) for seed in range(len(TASKS))])
    # Filled in two halves and another order, so that places in the cache differ from places in the batch.
    engine.prepare([TASKS[2][::2]])
    batch = engine.prepare(TASKS)
    cached = engine.features(batch, adapters)
    recomputed = engine.backbone.features(batch.placed, adapters)
    torch.testing.assert_close(cached, recomputed, **TOLERANCE)


def test_a_task_does_not_see_its_neighbours(tokenizer, toy_dataset) -> None:
    engine = encoder_for("llama", tokenizer, toy_dataset)
    first, second, third = (random_adapters(engine.backbone, seed) for seed in range(3))
    a = engine.features(engine.prepare(TASKS[:2]), stack_adapters([first, second]))
    b = engine.features(engine.prepare([TASKS[0], TASKS[2]]), stack_adapters([first, third]))
    torch.testing.assert_close(a[: len(TASKS[0])], b[: len(TASKS[0])], **TOLERANCE)


def test_gradient_of_the_sum_is_every_tasks_own(tokenizer, toy_dataset) -> None:
    engine = encoder_for("llama", tokenizer, toy_dataset, top=2)
    adapters = [random_adapters(engine.backbone, seed) for seed in range(len(TASKS))]
    stacked = stack_adapters(adapters).map(lambda tensor: tensor.requires_grad_())
    names = [name for name in stacked.tensors if "lora" in name]
    features = engine.features(engine.prepare(TASKS), stacked)
    together = torch.autograd.grad(features.square().sum(), [stacked.tensors[n] for n in names])
    for t, task in enumerate(TASKS):
        own = stack_adapters([adapters[t]]).map(lambda tensor: tensor.requires_grad_())
        alone = engine.features(engine.prepare([task]), own).square().sum()
        for gradient, single in zip(together, torch.autograd.grad(alone, [own.tensors[n] for n in names]), strict=True):
            torch.testing.assert_close(gradient[t], single[0], rtol=1e-3, atol=1e-4)


def test_dropout_mask_of_a_task_does_not_depend_on_its_neighbours(tokenizer, toy_dataset) -> None:
    engine = encoder_for("llama", tokenizer, toy_dataset, top=2)
    first, second = (random_adapters(engine.backbone, seed) for seed in range(2))

    def features(tasks: list[np.ndarray], adapters: list[Adapters]) -> torch.Tensor:
        streams = [torch.Generator().manual_seed(7 + t) for t in range(len(tasks))]
        return engine.features(engine.prepare(tasks), stack_adapters(adapters), (0.5, streams))

    n_first = len(TASKS[0])
    pair, alone = features(TASKS[:2], [first, second]), features(TASKS[:1], [first])
    torch.testing.assert_close(pair[:n_first], alone, **TOLERANCE)
    undropped = engine.features(engine.prepare(TASKS[:1]), stack_adapters([first]))
    assert (alone - undropped).abs().max() > 1e-3


def test_top_k_beyond_the_model_is_an_input_error(language_model) -> None:
    with pytest.raises(InputError, match="top-9.* has 3 layers: use 'all', or top-3"):
        Backbone(language_model, LoraShape(4, 8.0, 9))


def test_unknown_lora_target_is_an_input_error(language_model) -> None:
    with pytest.raises(InputError, match="nonexistent matches no layer"):
        Backbone(language_model, LoraShape(4, 8.0, 1, ("nonexistent",)))


def test_long_utterance_loses_its_end_and_the_template_nothing(tokenizer) -> None:
    ids = tokenize_prompts(tokenizer, ["door " * 50, "car"], "open {text} lock it", max_length=12)
    tail = tokenizer(" lock it")["input_ids"]
    assert len(ids[0]) == 12
    assert all(prompt[-2:] == tail for prompt in ids)
