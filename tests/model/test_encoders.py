"""Encoders (BERT's way): tokens see their whole prompt, and a prompt is the mean of its tokens."""

import re

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from reptile_scaling.config import make_config
from reptile_scaling.data.episodes import TaskPool
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_WEIGHT, Adapters, stack_adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.heads import fresh_head
from reptile_scaling.model.loading import LanguageModel, is_encoder
from reptile_scaling.model.peft_io import PEFT_PREFIX, lora_config
from reptile_scaling.runs.directory import RunDirectory
from toy_models import encode, tiny_model

FAMILIES = ("bert", "roberta", "electra")


def tiny_encoder(family: str, vocab_size: int) -> torch.nn.Module:
    sizes = {
        "vocab_size": vocab_size, "hidden_size": 32, "embedding_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(family, **sizes)).eval().requires_grad_(False)


def slow_features(model, token_ids: list[list[int]]) -> torch.Tensor:
    """One prompt at a time, in the Hub's own code, which counts RoBERTa's positions from 2 on."""
    rows = []
    for ids in token_ids:
        rows.append(model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapted_features_and_gradients_equal_peft(family: str, top: int | None, tokenizer, toy_dataset) -> None:
    model = LanguageModel(tiny_encoder(family, len(tokenizer)), tokenizer, family, is_encoder=True)
    engine = encode(Backbone(model, LoraShape(4, 8.0, top)), toy_dataset.texts)
    lora = lora_config(engine.backbone, "tiny")
    lora.inference_mode, lora.base_model_name_or_path = False, None
    twin = get_peft_model(tiny_encoder(family, len(tokenizer)), lora)
    pool = TaskPool(toy_dataset, tuple(range(12)), 0, "train", n_way=3, k_support=4, k_query=2)
    generator = torch.Generator().manual_seed(3)
    backbone = engine.backbone
    starts = [
        Adapters(backbone.fresh_lora(generator) | fresh_head(3, backbone.width, backbone.device)).map(
            lambda x: x + 0.05 * torch.randn(x.shape, generator=generator)
        )
        for _ in range(3)
    ]
    together = adapt_in_groups(engine, TaskBatch(stack_adapters(starts), pool.episodes(3), InnerLoop(2, 0.05, "sgd")))
    weights = {n: p for n, p in twin.named_parameters() if p.requires_grad}
    for t, episode in enumerate(pool.episodes(3)):
        own = {
            n.removeprefix(PEFT_PREFIX).replace(".default", "").removesuffix(".weight"): p for n, p in weights.items()
        }
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(starts[t].tensors[name])
        head = {n: starts[t].tensors[n].clone().requires_grad_() for n in (HEAD_WEIGHT, HEAD_BIAS)}
        optimizer = torch.optim.SGD([*own.values(), *head.values()], lr=0.05)
        labels = torch.arange(3).repeat_interleave(4)
        for step in range(2):
            optimizer.zero_grad()
            features = slow_features(twin, [engine.token_ids[u] for u in episode.support.ravel()])
            loss = torch.nn.functional.cross_entropy(features @ head[HEAD_WEIGHT].T + head[HEAD_BIAS], labels)
            assert float(together.losses[step, t]) == pytest.approx(float(loss.detach()), rel=1e-4)
            loss.backward()
            optimizer.step()
        for name, tensor in {**own, **head}.items():
            torch.testing.assert_close(together.adapters.tensors[name][t], tensor.detach(), rtol=1e-3, atol=1e-5)


def test_kind_is_read_from_the_folder(tokenizer, model_folder, tmp_path) -> None:
    tiny_encoder("bert", len(tokenizer)).save_pretrained(tmp_path / "bert")
    tiny_model("gpt2", len(tokenizer)).save_pretrained(tmp_path / "gpt2")
    assert is_encoder(str(tmp_path / "bert"))
    assert not is_encoder(str(tmp_path / "gpt2"))
    assert not is_encoder(str(model_folder))
    assert not is_encoder("./nowhere")
    # A decoder made of BERT's layers says so itself.
    config = AutoConfig.for_model("bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, is_decoder=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "decoder")
    assert not is_encoder(str(tmp_path / "decoder"))


def test_a_sweep_of_an_encoder_asks_it_for_no_words(tokenizer, toy_settings, tmp_path) -> None:
    folder = tmp_path / "bert"
    tiny_encoder("bert", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {**toy_settings, "model_name": str(folder), "n_tasks_list": [2, 4], "seeds": [0], "baselines": None}
    run = RunDirectory(tmp_path / "run")
    run_sweep(plan_sweep(make_config(settings), run), run)
    assert len(run.results()) == 2 and run.read_baseline_failures() == {}
    assert {"joint", "nearest_mean", "no_meta"} <= run.read_baselines().keys()
    assert not {"in_context", "zero_shot_labels"} & run.read_baselines().keys()
    adapter = run.cell(run.cells()[0]).adapter_folder
    (code,) = re.findall(r"```python\n(.*?)```", (adapter / "README.md").read_text(), flags=re.DOTALL)
    exec(code.replace("path/to/this/folder", str(adapter)), loaded := {})
    assert "BertModel" in str(loaded["model"]) and "lora_A" in str(loaded["model"])
    with pytest.raises(InputError, match="head of label words needs a language model's output embeddings"):
        words = make_config({**settings, "head": "label_words"})
        run_sweep(plan_sweep(words, RunDirectory(tmp_path / "words")), RunDirectory(tmp_path / "words"))


def test_embedded_models_are_of_their_kind() -> None:
    assert is_encoder("minilm-l6") and not is_encoder("smollm2-135m-instruct")


def test_real_encoder_beats_chance_by_far(banking77_folder, tmp_path) -> None:
    """all-MiniLM-L6-v2 on Banking77: the frozen features of what intent people use."""
    from reptile_scaling.baselines import run_baseline
    from reptile_scaling.learning.workbench import open_corpus, open_workbench

    config = make_config(
        {
            "model_name": "minilm-l6", "dataset": "banking77", "data_dir": str(banking77_folder),
            "class_split": "protaugment-01", "lora_layers": "top-1", "dtype": "float32", "num_meta_test_tasks": 20,
        }
    )  # fmt: skip
    workbench = open_workbench(config, open_corpus(config), "cpu")
    measured = run_baseline(workbench, "nearest_mean", tmp_path, lambda done, of: None)
    assert np.mean(measured.task_accuracies) > 0.85
