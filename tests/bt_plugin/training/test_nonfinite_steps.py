"""A step that is not finite leaves no trace, and too many of them end the run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bt_plugin.training.nonfinite_steps import NonFiniteSteps

CPU = torch.device("cpu")
YES, NO = torch.ones(()), torch.zeros(())
ONE_RANK = torch.tensor([True])


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def backward(model: nn.Module, scale: float) -> Tensor:
    model.zero_grad()
    loss: Tensor = model(scale * torch.randn(8, 4)).square().sum()
    loss.backward()
    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_seen(model: nn.Module, value: float) -> None:
    steps = NonFiniteSteps(model, CPU, most_in_a_row=10)
    loss = backward(model, 1.0)
    assert steps.found_inf(loss) == 0
    assert steps.found_inf(torch.tensor(value)) == 1
    model[0].weight.grad[1, 2] = value
    assert steps.found_inf(loss) == 1
    model[0].weight.grad = None
    assert steps.found_inf(loss) == 0, "a layer without a gradient"


def test_large_gradients_are_finite(model: nn.Module) -> None:
    """Their squares would not be."""
    steps = NonFiniteSteps(model, CPU, most_in_a_row=10)
    loss = backward(model, 1.0)
    model[0].weight.grad.fill_(1e30)
    assert steps.found_inf(loss) == 0


def test_buffers_are_those_of_the_last_sound_step(model: nn.Module) -> None:
    steps = NonFiniteSteps(model, CPU, most_in_a_row=10)
    backward(model, 1.0)
    moved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    steps.settle(1, NO, ONE_RANK, [])
    sound = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert all(torch.equal(moved[name], sound[name]) for name in moved)
    for number in (2, 3):
        backward(model, float("nan"))
        assert model[1].running_mean.isnan().all()
        steps.settle(number, YES, ONE_RANK, [])
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, sound[name]), name
    assert steps.total == 2
    backward(model, 1.0)
    steps.settle(4, NO, ONE_RANK, [])
    assert steps.total == 2
    assert not torch.equal(model[1].running_mean, sound["1.running_mean"])
    assert model[1].num_batches_tracked == 2
    assert NonFiniteSteps(model, CPU, most_in_a_row=10, total=5).total == 5


def test_so_many_in_a_row_are_divergence_and_the_newest_may_wait(model: nn.Module) -> None:
    steps = NonFiniteSteps(model, CPU, most_in_a_row=2)
    for number, found_inf in enumerate((YES, YES, NO, YES, YES, YES), start=1):
        steps.settle(number, found_inf, ONE_RANK, [f"{number}.jpg"])
        assert steps.divergence(behind=1) is None
    assert steps.divergence(behind=0) == (
        "step 6: the loss or its gradient is not finite, for 3 steps in a row; the images are 6.jpg"
    )


def test_the_explanation_names_ranks_and_images(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ranks say of their images is gathered elsewhere, by tests/test_survival.py."""
    names = [["a.jpg", "b.jpg"], [f"{number}.jpg" for number in range(20)]]
    monkeypatch.setattr("bt_plugin.runtime.collectives.all_gather_objects", lambda mine: names)

    def explained(finite: list[bool]) -> str:
        steps = NonFiniteSteps(model, CPU, most_in_a_row=0)
        steps.settle(1, YES, torch.tensor(finite), names[0])
        return steps.divergence(behind=0) or "nothing"

    one = explained([False, True])
    assert one == "step 1: the embeddings of rank 0 are not finite, for 1 steps in a row; the images are a.jpg, b.jpg"
    assert explained([True, False]).endswith("15.jpg and 4 more")
    assert "the loss or its gradient is not finite" in explained([True, True])
    assert "a.jpg, b.jpg, 0.jpg" in explained([True, True])
