"""BatchNorm over all ranks is one rank's BatchNorm of the whole batch: outputs, gradients and running statistics."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from bt_plugin.models.sync_batch_norm import SyncBatchNorm, finite_ranks, synchronize_batch_norm
from tests.ranks import run_ranks

SHAPES = {"features": (6, 5), "images": (6, 5, 4, 3), "channels_last": (6, 5, 4, 3)}


def whole(name: str, dtype: torch.dtype) -> Tensor:
    """The batch of all ranks, where each rank's part has its own mean and scale."""
    torch.manual_seed(1)
    x = torch.randn(SHAPES[name], dtype=torch.float64)
    x = x * torch.linspace(0.5, 3, len(x)).view(-1, *[1] * (x.ndim - 1)) + torch.arange(len(x)).view(
        -1, *[1] * (x.ndim - 1)
    )
    return x.to(dtype, memory_format=torch.channels_last) if name == "channels_last" else x.to(dtype)


def network(name: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(2)
    layer: Any = nn.BatchNorm1d(5) if name == "features" else nn.BatchNorm2d(5)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return nn.Sequential(layer).to(dtype)


def results(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Two steps' outputs, gradients and statistics; the loss treats samples differently."""
    found: dict[str, Tensor] = {}
    for step in range(2):
        x = x.detach().requires_grad_()
        output = model(x)
        (output.cos() * torch.linspace(-1, 1, output[0].numel(), dtype=x.dtype).view_as(output[0])).sum().backward()
        found |= {f"output{step}": output.detach(), f"x{step}": x.grad}
    found |= {name: parameter.grad for name, parameter in model.named_parameters()}
    return found | {name: buffer for name, buffer in model.named_buffers()}


def of_rank(rank: int, world_size: int, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    model = synchronize_batch_norm(network(name, dtype))
    assert isinstance(model[0], SyncBatchNorm)  # type: ignore[index]
    return results(model, whole(name, dtype).chunk(world_size)[rank])


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_ranks_are_one_rank_with_the_whole_batch(world_size: int, name: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        expected = results(network(name, dtype), whole(name, dtype))
        ranks = run_ranks(world_size, of_rank, world_size, name, dtype)
        for key, value in expected.items():
            if key.startswith(("output", "x")):
                ours = torch.cat([rank[key] for rank in ranks])
            elif "running" in key or "tracked" in key:
                assert all(torch.equal(rank[key], ranks[0][key]) for rank in ranks)
                ours = ranks[0][key]
            else:
                ours = torch.stack([rank[key] for rank in ranks]).sum(dim=0)
            torch.testing.assert_close(ours, value, rtol=tolerance, atol=tolerance)


def in_bf16(rank: int, affine: bool) -> tuple[torch.dtype, float]:
    layer = synchronize_batch_norm(nn.Sequential(nn.BatchNorm1d(5, affine=affine)))
    x = whole("features", torch.float32).chunk(2)[rank].bfloat16().requires_grad_()
    output = layer(x)
    output.square().sum().backward()
    assert x.grad is not None
    return output.dtype, float(x.grad.float().abs().max())


@pytest.mark.distributed
@pytest.mark.parametrize("affine", [False, True])
def test_bf16_stays_bf16_and_the_sums_are_float32(affine: bool) -> None:
    """The sum of standardized squares is constant, so its gradient is 0 but for rounding."""
    for dtype, largest in run_ranks(2, in_bf16, affine):
        assert dtype == torch.bfloat16
        assert largest < 0.05


def test_one_rank_and_evaluation_are_plain_batch_norm() -> None:
    plain, ours = network("images", torch.float32), synchronize_batch_norm(network("images", torch.float32))
    x = whole("images", torch.float32)
    assert plain.state_dict().keys() == ours.state_dict().keys()
    assert all(map(torch.equal, results(plain, x).values(), results(ours, x).values()))
    assert torch.equal(plain.eval()(x), ours.eval()(x))


def with_activation(rank: int, world_size: int) -> tuple[str, dict[str, Tensor]]:
    layer = timm.layers.BatchNormAct2d(5, act_layer="silu").double()
    model = nn.Sequential(layer)
    if world_size > 1:
        synchronize_batch_norm(model)
    return type(layer).__name__, results(model, whole("images", torch.float64).chunk(world_size)[rank])


@pytest.mark.distributed
def test_timm_s_layer_keeps_its_activation() -> None:
    _, expected = with_activation(0, 1)
    ranks = run_ranks(2, with_activation, 2)
    assert [name for name, _ in ranks] == ["SyncBatchNormAct"] * 2
    for key in ("output1", "x1"):
        torch.testing.assert_close(torch.cat([found[key] for _, found in ranks]), expected[key], rtol=0, atol=1e-12)


def test_unknown_layers_are_left_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    class WithActivation(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    model = synchronize_batch_norm(nn.Sequential(WithActivation(3), nn.BatchNorm2d(3)))
    assert [type(layer) for layer in model] == [WithActivation, SyncBatchNorm]
    assert "of the classes WithActivation" in caplog.text


def test_the_first_layer_that_is_not_finite_tells_the_rank() -> None:
    """A later layer has the NaN of all ranks. Without any, the embeddings tell."""
    fine, embeddings = torch.ones(3, 4), torch.tensor([True, False, False])
    spoilt = fine.clone()
    spoilt[1, 2] = torch.nan
    all_spoilt = torch.full((3, 4), torch.nan)
    assert finite_ranks([], embeddings).tolist() == [True, False, False]
    assert finite_ranks([fine, fine], embeddings).tolist() == [True, False, False]
    assert finite_ranks([fine, spoilt, all_spoilt], embeddings).tolist() == [True, False, True]
    assert finite_ranks([all_spoilt, spoilt], embeddings).tolist() == [False] * 3
