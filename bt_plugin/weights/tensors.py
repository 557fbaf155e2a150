"""Check the tensors of a file before they are used: plain, dense, finite, and no larger than the file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from bt_plugin.errors import WeightsError

State = dict[str, Tensor]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_OTHERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
_FLOATING_KEYS = ("weight", "bias", "running_mean", "running_var")
# Two networks that share their weights claim twice the file's bytes.
_MOST_TIMES_FILE = 8
_REMEDY = "Save the network's state_dict() with dense tensors of float32, float16 or bfloat16"


class UnknownLayoutError(WeightsError):
    """A file without a known network at the usual places."""


def plain(value: Tensor, key: str, path: Path) -> Tensor:
    """Return the tensor without attributes that a file may have added.

    Raises:
        WeightsError: If the tensor is of a subclass, or nested.
    """
    if type(value) not in (Tensor, nn.Parameter) or value.is_nested:
        raise WeightsError(f"{path}: {shown(key)} is a {type(value).__name__}, not a plain tensor. {_REMEDY}")
    return Tensor.detach(value)


def check_tensors(state: State, path: Path) -> None:
    """Raise an error for tensors that no network can use, before any value is read.

    Args:
        state: Tensors that will be used.
        path: File of the tensors.

    Raises:
        WeightsError: If a tensor is sparse, quantized, complex or without values, or claims more than the file stores.
    """
    for key, value in state.items():
        if problem := _problem(key, value):
            raise WeightsError(f"{path}: {shown(key)} {problem}. {_REMEDY}")
    total_bytes = sum(value.nbytes for value in state.values())
    if total_bytes > _MOST_TIMES_FILE * path.stat().st_size:
        raise WeightsError(
            f"{path}: its tensors claim {total_bytes} bytes, but the file has {path.stat().st_size}. Copy it again"
        )


def _problem(key: str, value: Tensor) -> str:
    if value.is_meta:
        return "is on the meta device, without values"
    if value.layout is not torch.strided:
        return "is sparse"
    if value.is_quantized:
        return "is quantized"
    # A network would convert integers to floats without rescaling them.
    if value.dtype not in (_FLOATS if key.endswith(_FLOATING_KEYS) else (*_FLOATS, *_OTHERS)):
        return f"has values of {str(value.dtype).removeprefix('torch.')}"
    stored = value.untyped_storage().nbytes() // value.itemsize
    if value.numel() > stored:
        return f"claims {value.numel()} values, but {stored} are stored"
    return ""


def check_finite(state: State, path: Path) -> None:
    """Raise an error for weights with which a network computes only NaN.

    Raises:
        WeightsError: If a value is NaN or infinite, or a variance is negative.
    """
    for key, value in state.items():
        if key.endswith("running_var") and bool((value < 0).any()):
            raise WeightsError(f"{path}: {shown(key)} has negative variances. Use another checkpoint")
        if value.is_floating_point() and not torch.isfinite(value).all():
            nan, bad = int(value.isnan().sum()), int((~torch.isfinite(value)).sum())
            what = "NaN" if nan == bad else "infinite" if nan == 0 else "NaN or infinite"
            raise WeightsError(f"{path}: {bad} of {value.numel()} values of {key} are {what}. Use another checkpoint")


def shown(text: str, most: int = 100) -> str:
    """Escape control characters in a name or message from a file, and shorten it to about one line."""
    text = text[: most + 1]
    escaped = text if text.isprintable() else ascii(text)[1:-1]
    return escaped if len(escaped) <= most else f"{escaped[:most]}..."


def some(names: Iterable[str]) -> str:
    """Return the first names of a file, and the number of further names."""
    names = list(names)
    return ", ".join(map(shown, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
