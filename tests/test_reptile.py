import sys

import pytest
import torch

from reptile_scaling.adaptation import Adapted, InnerLoop
from reptile_scaling.algorithms.algorithm import MetaBatch
from reptile_scaling.algorithms.outer import outer_sgd
from reptile_scaling.algorithms.reptile import reptile
from reptile_scaling.config import make_config
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.encoder import PromptEncoder
from reptile_scaling.training import scheduled_meta_lr


def meta_step(
    monkeypatch: pytest.MonkeyPatch, theta: Adapters, adapted: Adapters, meta_lr: float
) -> dict[str, torch.Tensor]:
    """θ after a meta-step whose inner loops end at `adapted`."""
    n_tasks = len(next(iter(adapted.tensors.values())))
    monkeypatch.setattr(
        sys.modules["reptile_scaling.algorithms.reptile"], "adapt", lambda *_: Adapted(adapted, torch.zeros(1, n_tasks))
    )
    batch = MetaBatch(theta.repeated(n_tasks), [], InnerLoop(1, 0.1), [], [0] * n_tasks)
    found = reptile(object.__new__(PromptEncoder), batch)
    return outer_sgd(theta, found.gradients.map(lambda tensor: tensor.mean(0)), meta_lr).tensors


def test_step_equals_the_hand_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    theta = Adapters({"w": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.5]])})
    adapted = Adapters({"w": torch.tensor([[3.0, 0.0], [2.0, -6.0]]), "b": torch.tensor([[[1.5]], [[-0.5]]])})
    new = meta_step(monkeypatch, theta, adapted, 0.1)
    # w: mean φ − θ = ([3, 0] + [2, −6]) / 2 − [1, −2] = [1.5, −1]; θ + 0.1 · that = [1.15, −2.1]
    # b: mean φ − θ = (1.5 − 0.5) / 2 − 0.5 = 0
    torch.testing.assert_close(new["w"], torch.tensor([1.15, -2.1]))
    torch.testing.assert_close(new["b"], torch.tensor([[0.5]]))


def test_one_task_and_a_full_step_give_the_adapted_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    theta, phi = Adapters({"w": torch.tensor([1.0, 2.0])}), Adapters({"w": torch.tensor([[5.0, -1.0]])})
    torch.testing.assert_close(meta_step(monkeypatch, theta, phi, 1.0)["w"], torch.tensor([5.0, -1.0]))


def test_linear_schedule_falls_to_zero() -> None:
    config = make_config({"meta_lr": 0.4, "num_meta_steps": 4, "meta_lr_schedule": "linear"})
    assert [scheduled_meta_lr(config, step) for step in range(5)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
