"""A step on fake CUDA tensors: which operations would make the host wait, found without a GPU.

Fake tensors have shapes and devices and no numbers. Autograd wants a real device, so the loss's own formulas for its
gradient are called directly, and the model's gradients are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.cuda.amp import common
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bt_plugin import LARS, BarlowTwins, BarlowTwinsLoss, build_projector, parameter_groups
from bt_plugin.evaluation.online_probe import OnlineProbe
from bt_plugin.models.memory_format import lay_out
from bt_plugin.models.pool_before_relu import pool_before_relu
from bt_plugin.runtime.async_copy import AsyncCopy
from bt_plugin.training.nonfinite_steps import NonFiniteSteps

_READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_consecutive", "_unique2"}
_COPIES = {"_to_copy", "copy_", "to"}
GPU = torch.device("cuda")


class NoWait(TorchDispatchMode):
    """Fails on reads of values, and on copies between devices that are not asynchronous."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        by_mask = name == "index" and any(each.dtype == torch.bool for each in given[1:])
        if (name in _READS or by_mask) and any(each.is_cuda for each in given):
            raise AssertionError(f"read by {func}")
        result = func(*args, **kwargs)
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if name in _COPIES and given and made:
            source = given[1] if name == "copy_" else given[0]
            is_asynchronous = kwargs.get("non_blocking", len(args) > 2 and args[2] is True)
            if source.device.type != made[0].device.type and not is_asynchronous:
                raise AssertionError(f"blocking copy from {source.device.type} to {made[0].device.type} by {func}")
        return result


class Event:
    """A CUDA event that has not happened; to wait for it is a fault."""

    def record(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        pytest.fail("the host waits for an event")


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "_fused_sgd_", _checked_sgd)


def _checked_sgd(params: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], **options: Any) -> None:
    """Hold what torch's fused kernel takes for granted; it has no fake form."""
    for tensors in zip(params, gradients, momenta):
        assert len({(each.shape, each.stride(), each.dtype) for each in tensors}) == 1
        assert all(each.is_cuda for each in tensors)
    found_inf = options["found_inf"]
    assert found_inf is None or (found_inf.is_cuda and found_inf.dtype == torch.float32)


def on_gpu(module: nn.Module) -> None:
    """Give a module fake parameters and buffers on the GPU, laid out as its own."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)
                part._parameters[name] = nn.Parameter(fake)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)


def meta_model() -> BarlowTwins:
    with torch.device("meta"):
        backbone = torchvision.models.resnet18()
        backbone.fc = nn.Identity()
        model = BarlowTwins(backbone, build_projector(512, [256, 256]))
    pool_before_relu(model.backbone)
    return lay_out(model, "auto", by_layer=False).train()


def step(form: str, found_inf_of: Callable[[NonFiniteSteps, Tensor], Tensor] = NonFiniteSteps.found_inf) -> None:
    """Run the parts of a step; fail where the host would wait."""
    model = meta_model()
    probe = OnlineProbe(model.backbone, 512, classes=10, device=torch.device("cpu"), lr=0.1, seed=0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _step(model, probe, form, found_inf_of)


def _step(
    model: BarlowTwins, probe: OnlineProbe, form: str, found_inf_of: Callable[[NonFiniteSteps, Tensor], Tensor]
) -> None:
    on_gpu(model)
    on_gpu(probe.classifier)
    optimizer = LARS(parameter_groups(model, lr_weights=0.2, lr_biases=0.005, weight_decay=1e-6), lr=0.0)
    optimizer.make_state()
    nonfinite = NonFiniteSteps(model, GPU, most_in_a_row=10)
    views = [torch.empty(32, 64, 64, 3, device=GPU).permute(0, 3, 1, 2) for _ in range(2)]
    with NoWait():
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            z_a, z_b = model(*views)
        terms, gradients = BarlowTwinsLoss(form=form)._evaluated(z_a.float(), z_b.float(), True)  # type: ignore[arg-type]
        assert [gradient.shape for gradient in gradients] == [z_a.shape, z_b.shape]
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.found_inf = found_inf = found_inf_of(nonfinite, terms.loss)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * 0.5
        optimizer.step()
        nonfinite.settle(1, found_inf, terms.finite, ["x"])
        AsyncCopy(torch.stack([terms.loss, terms.invariance, nonfinite.total]))
        labels = torch.zeros(32, dtype=torch.int64).to(GPU, non_blocking=True)
        probe.classifier.training_step((torch.empty(32, 512, device=GPU), labels), 0)


@pytest.mark.parametrize("form", ["gram", "cross"])
def test_the_host_waits_for_nothing(form: str) -> None:
    """NoWait and Event fail where it would; the next test plants what they must find."""
    step(form)


def test_a_planted_read_and_a_planted_copy_are_seen() -> None:
    def reading(nonfinite: NonFiniteSteps, loss: Tensor) -> Tensor:
        loss.isfinite().nonzero()
        return nonfinite.found_inf(loss)

    def copying(nonfinite: NonFiniteSteps, loss: Tensor) -> Tensor:
        loss.new_tensor([3.0])
        return nonfinite.found_inf(loss)

    with pytest.raises(AssertionError, match=r"read by aten\.nonzero"):
        step("gram", reading)
    with pytest.raises(AssertionError, match="blocking copy from cpu to cuda"):
        step("gram", copying)
