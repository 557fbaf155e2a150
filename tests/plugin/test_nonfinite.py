"""A step that is not finite leaves no trace, and too many of them end the run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bt_plugin.nonfinite import NonFiniteSteps


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def backward(model: nn.Module, scale: float) -> torch.Tensor:
    model.zero_grad()
    loss: torch.Tensor = model(scale * torch.randn(8, 4)).square().sum()
    loss.backward()
    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_seen(model: nn.Module, value: float) -> None:
    steps = NonFiniteSteps(model)
    loss = backward(model, 1.0)
    assert steps.is_sound(loss)
    assert not steps.is_sound(torch.tensor(value))
    model[0].weight.grad[1, 2] = value
    assert not steps.is_sound(loss)
    model[0].weight.grad = None
    assert steps.is_sound(loss), "a layer without a gradient"


def test_large_gradients_are_finite(model: nn.Module) -> None:
    """Their squares would not be."""
    steps = NonFiniteSteps(model)
    loss = backward(model, 1.0)
    model[0].weight.grad.fill_(1e30)
    assert steps.is_sound(loss)


def test_buffers_are_those_of_the_last_sound_step(model: nn.Module) -> None:
    steps = NonFiniteSteps(model)
    backward(model, 1.0)
    steps.settle(True)
    sound = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for _ in range(2):
        backward(model, float("nan"))
        assert model[1].running_mean.isnan().all()
        steps.settle(False)
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, sound[name]), name
    assert (steps.in_a_row, steps.total) == (2, 2)
    backward(model, 1.0)
    steps.settle(True)
    assert (steps.in_a_row, steps.total) == (0, 2)
    assert not torch.equal(model[1].running_mean, sound["1.running_mean"])
    assert NonFiniteSteps(model, total=5).total == 5


def test_the_explanation_names_ranks_and_images(model: nn.Module) -> None:
    steps = NonFiniteSteps(model)
    steps.settle(False)
    names = [["a.jpg", "b.jpg"], [f"{number}.jpg" for number in range(20)]]
    one = steps.explained([False, True], names)
    assert one == "the embeddings of rank 0 are not finite, for 1 steps in a row, of the images a.jpg, b.jpg"
    assert steps.explained([True, False], names).endswith("15.jpg and 4 more")
    assert "the loss or its gradient is not finite" in steps.explained([True, True], names)
    assert "a.jpg, b.jpg, 0.jpg" in steps.explained([True, True], names)
