"""A model whose parameters have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.memory_format import lay_out


def build_without_memory(
    recipe: Recipe, build: Callable[[], BarlowTwins] | None = None, *, laid_out: bool
) -> BarlowTwins:
    """Return the model in its final layout on the meta device, or on the CPU if it cannot be built there.

    Args:
        recipe: Recipe of the run.
        build: Function that builds the model. Default: build_model of the recipe.
        laid_out: Whether the weights get the recipe's memory format.
    """
    make = build or (lambda: build_model(recipe))
    try:
        with torch.device("meta"):
            model = make()
    except RecipeError:
        raise
    except Exception:  # some networks read values while they are built, or while their features are counted
        model = make()
    return lay_out(model, recipe.run.memory_format, by_layer=False) if laid_out else model


class _Fixed(BarlowTwins):
    """A model that stays where it is, because fake tensors cannot be moved in place."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Fixed:
        return self


def fix(model: BarlowTwins) -> None:
    """Let a model of fake tensors ignore moves to a device or a layout, which it already has."""
    model.__class__ = _Fixed


def make_fake(model: nn.Module, *, numbered: bool = False) -> None:
    """Replace all parameters and buffers by fake ones of the same shapes and strides, in place.

    Call it within a FakeTensorMode.

    Args:
        model: Model on the meta device or on the CPU.
        numbered: Whether each parameter gets an address of its own, by which Accelerate finds the shards of FSDP.
    """
    made: dict[int, Tensor] = {}
    kept = []  # so that no other tensor gets the identity of one that is replaced
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    kept.append(tensor)
                    made[id(tensor)] = _fake(tensor, len(made) + 1 if numbered else None)
                tensors[name] = made[id(tensor)]  # type: ignore[assignment]


def _fake(tensor: Tensor, address: int | None) -> Tensor:
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if not isinstance(tensor, nn.Parameter):
        return fake
    parameter = nn.Parameter(fake, requires_grad=tensor.requires_grad)
    if address is not None:
        parameter.data_ptr = lambda: address  # type: ignore[method-assign]
    return parameter


class WithoutResults(TorchDispatchMode):
    """A context that skips operations which only change tensors in place, such as the steps of torch's optimizers.

    torch runs those that it has no shapes for on real tensors, with the memory of all weights.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "aten" and not func._schema.returns:
            return None
        return func(*args, **(kwargs or {}))


class GpuAutocast(TorchFunctionMode):
    """A context in which autocast on a CPU does what it does on a GPU: compute these functions in float32."""

    _IN_FLOAT32 = (nn.functional.layer_norm, nn.functional.group_norm, nn.functional.softmax, Tensor.softmax)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._IN_FLOAT32 and torch.is_autocast_enabled("cpu") and args[0].dtype == torch.bfloat16:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))
