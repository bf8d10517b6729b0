import pytest
import torch

from reptile_scaling.bench import floor, scaling
from reptile_scaling.bench.bench import Work, bench_work
from reptile_scaling.bench.floor import Product, inner_step_products
from reptile_scaling.config import make_config
from reptile_scaling.learning.workbench import open_corpus, open_workbench


@pytest.fixture
def settings(toy_settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr("reptile_scaling.bench.bench.TOP_LAYERS", "top-1")  # the toy model has three layers
    return toy_settings


def test_every_program_does_the_same_work(settings) -> None:
    lines: list[str] = []
    result = bench_work(settings, Work(n_tasks=3, inner_steps=2, repeats=1, compiled_peer=False), lines.append)
    assert len(result["variants"]) == len(lines) == 7 and result["failed"] == {}
    assert lines[0].startswith("PEFT, one task at a time") and "times sequential PEFT" in lines[1]
    for variant in result["variants"]:
        assert variant["max_abs_loss_diff"] < (1e-3 if variant["exact"] else 0.1), variant["name"]
        assert variant["tasks_per_s"] > 0 and variant["peak_memory_bytes"] >= 0
    assert result["ratio_vs_best_peer"] <= result["ratio_vs_sequential_peft"]
    assert all(result[key] > 0 for key in ("ratio_vs_sequential_peft", "ratio_vs_padded_loop", "fraction_of_floor"))


def test_last_layer_counts_keys_and_values_for_all_tokens_and_the_rest_for_answers(settings) -> None:
    config = make_config({**settings, "lora_layers": "top-1"})
    backbone = open_workbench(config, open_corpus(config), "cpu").engine.backbone
    # Width 32, 2 of 4 heads for keys and values (16), inner 64; 100 tokens in 10 prompts.
    products = inner_step_products(backbone, n_tokens=100, n_prompts=10)
    assert sorted(p.rows for p in products) == [10] * 5 + [100] * 2
    # q, k and v read what enters the layer, the same at each step; o 10·32·32, gate, up and down 10·32·64 do not.
    assert sum(p.flops for p in products) == 2 * 2 * (10 * 32 * 32 + 3 * 10 * 32 * 64)


def test_a_step_without_frozen_products_has_a_rate() -> None:
    product = Product(100, 8, 8, times=0)
    assert floor.matrix_rate([product], torch.float32, torch.device("cpu")) > 0


def test_product_of_what_enters_is_made_once_for_all_steps() -> None:
    assert Product(5, 3, 2, times=0).flops == 0
    assert Product(5, 3, 2, times=2).flops == 2 * 2 * 5 * 3 * 2


def test_cost_is_given_for_each_number_of_tasks_and_cells(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "TASKS_PER_STEP", (1, 2))
    monkeypatch.setattr(scaling, "CELLS_PER_COHORT", (1, 2))
    cost = scaling.bench_scaling(settings, repeats=1)
    assert cost["sequential_peft_seconds_per_task_step"] > 0
    assert [row["tasks_per_step"] for row in cost["tasks"] if row["precision"] == "float32"] == [1, 2]
    assert [(row["cells"], row["tasks_per_step"]) for row in cost["cohorts"]] == [(1, 2), (2, 4)]
    assert all(row["seconds_per_task_step"] > 0 for row in cost["tasks"] + cost["cohorts"])


def test_rate_is_the_best_of_the_arrangements_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    product = Product(100, 8, 8, times=1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for together, apart in ((2.0, 1.0), (1.0, 2.0)):
        monkeypatch.setattr(floor, "seconds_together", lambda *_, together=together: together)
        monkeypatch.setattr(floor, "seconds_in_lanes", lambda *_, apart=apart: apart)
        assert floor.matrix_rate([product], torch.float32, torch.device("cpu")) == product.flops / 1.0
