"""LARS and the schedule against the official code's formulas, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bt_plugin import LARS, BarlowTwinsLoss, build_projector, lr_scale, parameter_groups
from bt_plugin.optim import lars as optim
from tests.tolerance import assert_rounded


@pytest.fixture(autouse=True, params=["one by one", "by lists"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights on a CPU go one by one, on a GPU and in shards by lists."""
    if request.param == "by lists":
        monkeypatch.setattr(optim, "_is_plain_on_cpu", lambda p: False)
    # So that small weights have some, and a rest.
    monkeypatch.setattr(optim, "_PIECE", 1000)


def test_groups_are_weights_and_vectors() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    weights, biases = parameter_groups(model, lr_weights=0.2, lr_biases=0.01, weight_decay=1e-4)
    assert [tuple(p.shape) for p in weights["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert [tuple(p.shape) for p in biases["params"]] == [(4,), (4,), (4,), (2,)]
    assert (weights["base_lr"], weights["weight_decay"], weights["adapt"]) == (0.2, 1e-4, True)
    assert (biases["base_lr"], biases["weight_decay"], biases["adapt"]) == (0.01, 0.0, False)


def test_groups_leave_frozen_parameters_out() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(model, lr_weights=1, lr_biases=1, weight_decay=0)] == [
        0,
        1,
    ]


def test_three_steps_are_the_official_rule() -> None:
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
    optimizer = LARS(
        [
            {"params": [weight], "lr": 0.5, "weight_decay": 0.1, "adapt": True},
            {"params": [bias], "lr": 0.05, "weight_decay": 0.0, "adapt": False},
        ],
        lr=0.0,
    )
    w, b = weight.detach().clone(), bias.detach().clone()
    momentum_w, momentum_b = torch.zeros_like(w), torch.zeros_like(b)
    for step in range(3):
        weight.grad, bias.grad = torch.randn(4, 3), torch.randn(4)
        update = weight.grad + 0.1 * w
        update *= 0.001 * w.norm() / update.norm()
        momentum_w = 0.9 * momentum_w + update
        momentum_b = 0.9 * momentum_b + bias.grad
        w, b = w - 0.5 * momentum_w, b - 0.05 * momentum_b
        optimizer.step()
        # Three additions a step; a thousandth of a norm's rounding is none.
        terms = 3 * (step + 1)
        assert_rounded(weight.detach(), w, terms=terms, name=f"weight, step {step}")
        assert_rounded(bias.detach(), b, terms=terms, name=f"bias, step {step}")


def test_zero_weights_and_zero_gradients_move_unscaled() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LARS([zero, still], lr=0.1).step()
    assert torch.equal(zero, torch.full((2, 2), -0.1))
    assert torch.equal(still, torch.ones(2, 2))


def test_parameters_without_gradient_stay() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    LARS([parameter], lr=1.0, weight_decay=1.0).step()
    assert torch.equal(parameter, torch.ones(2, 2))


def test_official_rates_translate_to_the_true_gradient() -> None:
    """docs/loss.md: gradient g/W with (wd, lr) moves as gradient g with (W wd, lr/W for biases)."""
    world_size, weight_decay, lr_biases = 16, 1e-3, 0.048
    loss_fn = BarlowTwinsLoss(0.02)

    def train(gradient_scale: float, weight_decay: float, lr_biases: float) -> list[Tensor]:
        torch.manual_seed(0)
        model = build_projector(6, [8, 4]).double()
        optimizer = LARS(
            parameter_groups(model, lr_weights=5.0, lr_biases=lr_biases, weight_decay=weight_decay), lr=0.0
        )
        for _ in range(20):
            optimizer.zero_grad()
            view_a = torch.randn(12, 6, dtype=torch.float64)
            view_b = view_a + 0.5 * torch.randn(12, 6, dtype=torch.float64)
            (gradient_scale * loss_fn(model(view_a), model(view_b))).backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    official = train(1 / world_size, weight_decay, lr_biases)
    ours = train(1.0, world_size * weight_decay, lr_biases / world_size)
    for first, second in zip(official, ours):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-12)
    for untranslated in (
        train(1.0, weight_decay, lr_biases / world_size),
        train(1.0, world_size * weight_decay, lr_biases),
    ):
        assert any(not torch.allclose(first, second, rtol=1e-4) for first, second in zip(official, untranslated))


def test_schedule_is_the_official_one() -> None:
    """main.py:160-173 at 8e8d284, with ten epochs of warm-up and 100 steps an epoch."""
    total, warmup = 10_000, 1_000
    assert lr_scale(0, total, warmup_steps=warmup) == 0
    assert lr_scale(500, total, warmup_steps=warmup) == pytest.approx(0.5)
    assert lr_scale(1_000, total, warmup_steps=warmup) == pytest.approx(1)
    q = 0.5 * (1 + math.cos(math.pi * 4_500 / 9_000))
    assert lr_scale(5_500, total, warmup_steps=warmup) == pytest.approx(q + 0.001 * (1 - q))
    assert lr_scale(9_999, total, warmup_steps=warmup) == pytest.approx(0.001, rel=1e-3)
    assert lr_scale(0, 10, warmup_steps=0) == 1


def test_all_at_once_is_the_plain_rule() -> None:
    """Over many sizes and layouts, 20 steps, to 1e-6: four times what 20 roundings of float32 come to."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 7), nn.BatchNorm2d(64), nn.Conv2d(64, 32, 1), nn.Linear(300, 500))
    model.to(memory_format=torch.channels_last)
    optimizer = LARS(parameter_groups(model, lr_weights=0.5, lr_biases=0.05, weight_decay=1e-2), lr=0.0)
    plain = {p: p.detach().clone().double() for p in model.parameters()}
    momentum = {p: torch.zeros_like(value) for p, value in plain.items()}
    for _ in range(20):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
            update = p.grad.double()
            if p.ndim > 1:
                update = update + 1e-2 * plain[p]
                update *= 0.001 * plain[p].norm() / update.norm()
            momentum[p] = 0.9 * momentum[p] + update
            plain[p] -= (0.5 if p.ndim > 1 else 0.05) * momentum[p]
        optimizer.step()
    for p, value in plain.items():
        assert (p - value).norm() <= 1e-6 * value.norm()


# The same numbers in different orders in memory.
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.clone,
    "channels_last": lambda rows: rows.clone(memory_format=torch.channels_last),
    "transposed": lambda rows: rows.mT.clone(memory_format=torch.contiguous_format).mT,
}


@pytest.mark.parametrize("adapt", [True, False], ids=["adapted", "not adapted"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("other", ORDERS)
def test_the_order_in_memory_does_not_matter(order: str, other: str, adapt: bool) -> None:
    """Of a weight, its gradient, and a momentum that was loaded; where the first two have much in common."""
    torch.manual_seed(0)
    rows = torch.randn(8, 6, 3, 3)
    weight, saved = nn.Parameter(ORDERS[order](rows)), nn.Parameter(ORDERS[other](rows))
    weight.grad = ORDERS[other](2 * rows)
    optimizer, before = (LARS([{"params": [p], "adapt": adapt}], 1.0, weight_decay=1.0) for p in (weight, saved))
    before.make_state()
    before.state[saved]["momentum"].copy_(rows)
    optimizer.load_state_dict(before.state_dict())
    optimizer.step()
    moved = 0.9 + (0.001 if adapt else 3.0)
    # Three additions, of which the largest is the move.
    assert_rounded(weight.detach(), rows * (1 - moved), terms=3, scale=moved * rows.abs().amax())
    assert weight.stride() == ORDERS[order](rows).stride()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(value: float) -> None:
    model = nn.Linear(3, 2)
    optimizer = LARS(parameter_groups(model, lr_weights=0.1, lr_biases=0.1, weight_decay=0.1), lr=0.0)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    momenta = [optimizer.state[p]["momentum"].clone() for p in model.parameters()]
    model.weight.grad[0, 0] = value
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    for p, weight, momentum in zip(model.parameters(), before, momenta):
        assert torch.equal(p, weight)
        assert torch.equal(optimizer.state[p]["momentum"], momentum)


def test_gradients_stay_as_they_are() -> None:
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    LARS(parameter_groups(model, lr_weights=0.1, lr_biases=0.1, weight_decay=0.1), lr=0.0).step()
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
