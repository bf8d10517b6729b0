import pytest
import torch

from reptile_scaling.config import make_config
from reptile_scaling.learning.algorithms.reptile import outer_step, reptile
from reptile_scaling.learning.meta_step import scheduled_meta_lr
from reptile_scaling.model.adapters import Adapters


def updated(theta: Adapters, adapted: Adapters, meta_lr: float) -> dict[str, torch.Tensor]:
    n_tasks = len(next(iter(adapted.tensors.values())))
    return outer_step(theta, reptile(theta.repeated(n_tasks), adapted).mean(), meta_lr).tensors


def test_step_equals_the_hand_computation() -> None:
    theta = Adapters({"w": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.5]])})
    adapted = Adapters({"w": torch.tensor([[3.0, 0.0], [2.0, -6.0]]), "b": torch.tensor([[[1.5]], [[-0.5]]])})
    new = updated(theta, adapted, 0.1)
    # w: mean φ − θ = ([3, 0] + [2, −6]) / 2 − [1, −2] = [1.5, −1]; θ + 0.1 · that = [1.15, −2.1]
    # b: mean φ − θ = (1.5 − 0.5) / 2 − 0.5 = 0
    torch.testing.assert_close(new["w"], torch.tensor([1.15, -2.1]))
    torch.testing.assert_close(new["b"], torch.tensor([[0.5]]))


def test_one_task_and_a_full_step_give_the_adapted_parameters() -> None:
    theta, phi = Adapters({"w": torch.tensor([1.0, 2.0])}), Adapters({"w": torch.tensor([[5.0, -1.0]])})
    torch.testing.assert_close(updated(theta, phi, 1.0)["w"], torch.tensor([5.0, -1.0]))


def test_linear_schedule_falls_to_zero() -> None:
    config = make_config({"meta_lr": 0.4, "num_meta_steps": 4, "meta_lr_schedule": "linear"})
    assert [scheduled_meta_lr(config, step) for step in range(5)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
