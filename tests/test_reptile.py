import pytest
import torch

from reptile_scaling.algorithms import META_UPDATES
from reptile_scaling.algorithms.reptile import reptile_update
from reptile_scaling.config import make_config
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.training import scheduled_meta_lr


def test_step_equals_the_hand_computation() -> None:
    theta = Adapters({"w": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.5]])})
    adapted = Adapters({"w": torch.tensor([[3.0, 0.0], [2.0, -6.0]]), "b": torch.tensor([[[1.5]], [[-0.5]]])})
    new = reptile_update(theta, adapted, 0.1)
    # w: mean φ − θ = ([3, 0] + [2, −6]) / 2 − [1, −2] = [1.5, −1]; θ + 0.1 · that = [1.15, −2.1]
    # b: mean φ − θ = (1.5 − 0.5) / 2 − 0.5 = 0
    torch.testing.assert_close(new.tensors["w"], torch.tensor([1.15, -2.1]))
    torch.testing.assert_close(new.tensors["b"], torch.tensor([[0.5]]))


def test_one_task_and_a_full_step_give_the_adapted_parameters() -> None:
    theta, phi = Adapters({"w": torch.tensor([1.0, 2.0])}), Adapters({"w": torch.tensor([[5.0, -1.0]])})
    torch.testing.assert_close(reptile_update(theta, phi, 1.0).tensors["w"], torch.tensor([5.0, -1.0]))


def test_order_of_the_tasks_does_not_matter() -> None:
    theta, phi = Adapters({"w": torch.zeros(3)}), Adapters({"w": torch.randn(4, 3)})
    reversed_phi = phi.map(lambda tensor: tensor.flip(0))
    for update in META_UPDATES.values():
        torch.testing.assert_close(update(theta, phi, 0.3).tensors, update(theta, reversed_phi, 0.3).tensors)


def test_linear_schedule_falls_to_zero() -> None:
    config = make_config({"meta_lr": 0.4, "num_meta_steps": 4, "meta_lr_schedule": "linear"})
    assert [scheduled_meta_lr(config, step) for step in range(5)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
