"""Handle steps with a NaN or infinite loss or gradient.

Such a step leaves no trace in the model, and the host does not wait for the device to find out about it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bt_plugin.runtime import collectives
from bt_plugin.runtime.async_copy import AsyncCopy

# Number of images that a message names.
_NAMED_IMAGES = 16


class NonFiniteSteps:
    """A counter, on the device, of steps whose loss or gradient is not finite. It undoes their forward pass.

    All ranks take the same decision, because the loss and the averaged gradients are the same on every rank.

    Args:
        model: Model whose gradients are checked. Its buffers are restored after such a step. Otherwise BatchNorm's
            running statistics would stay NaN.
        device: Device of the model.
        most_in_a_row: Number of such steps in a row that are allowed. One more is a divergence.
        total: Number of such steps so far.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, most_in_a_row: int, total: int = 0) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        dtypes = sorted({buffer.dtype for buffer in model.buffers()}, key=str)
        self._buffers = [_Buffers([b for b in model.buffers() if b.dtype == dtype]) for dtype in dtypes]
        self._most_in_a_row = most_in_a_row
        self._one = torch.ones((), device=device)
        self._in_a_row = torch.zeros((), device=device)
        self.total = torch.full((), float(total), device=device)
        """Number of such steps so far: a scalar float32 on the device."""
        self._unread: deque[_Step] = deque()

    @torch.no_grad()
    def found_inf(self, loss: Tensor) -> Tensor:
        """Return 1 if the loss or a gradient is not finite, else 0: a scalar float32 on the device."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        found_inf = loss.detach().isfinite().logical_not().float()
        # GradScaler's kernel with a scale of 1 needs only one pass over all gradients.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, self._one)
        return found_inf

    @torch.no_grad()
    def settle(self, step: int, found_inf: Tensor, finite: Tensor, names: list[str]) -> None:
        """Count a step. Keep its buffers if it is finite, else restore those of the last finite step.

        Args:
            step: Number of the step, from 1.
            found_inf: Scalar float32 on the device: 1 if the loss or a gradient is not finite, else 0.
            finite: (W,) bool on the device, whether each rank's embeddings are finite.
            names: Names of this rank's images in the step.
        """
        self.total += found_inf
        self._in_a_row = (self._in_a_row + 1) * found_inf
        for buffers in self._buffers:
            buffers.settle(found_inf > 0)
        numbers = torch.cat((self._in_a_row.unsqueeze(0), finite.float()))
        self._unread.append(_Step(step, AsyncCopy(numbers), names))

    def divergence(self, behind: int) -> str | None:
        """Return what went wrong if too many steps in a row were not finite, else None. Call it on every rank.

        Args:
            behind: Number of the newest steps that may stay unread, so that the host does not wait for them.
        """
        while len(self._unread) > behind:
            step = self._unread.popleft()
            in_a_row, *finite = step.numbers.tolist()
            if in_a_row > self._most_in_a_row:
                names = collectives.all_gather_objects(step.names)
                return f"step {step.number}: {_explained(int(in_a_row), finite, names)}"
        return None


class _Step(NamedTuple):
    """A step that the host has not read yet.

    Args:
        number: Number of the step, from 1.
        numbers: (1 + W,) float32: steps in a row that are not finite, then 1 for each rank with finite embeddings, else
            0.
        names: Names of this rank's images in the step.
    """

    number: int
    numbers: AsyncCopy
    names: list[str]


class _Buffers:
    """Buffers of one dtype. They are joined, so that a few kernels handle all instead of some for each."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self._buffers = buffers
        self._kept = self._joined()

    def settle(self, are_spoilt: Tensor) -> None:
        self._kept = torch.where(are_spoilt, self._kept, self._joined())
        parts = self._kept.split([buffer.numel() for buffer in self._buffers])
        torch._foreach_copy_(self._buffers, [part.view(b.shape) for part, b in zip(parts, self._buffers)])

    def _joined(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self._buffers])


def _explained(in_a_row: int, finite: list[float], names: list[list[str]]) -> str:
    """Return what is not finite, and the images of the step."""
    ranks = [rank for rank, is_finite in enumerate(finite) if not is_finite]
    what = f"the embeddings of rank {', '.join(map(str, ranks))} are" if ranks else "the loss or its gradient is"
    images = [name for rank in ranks or range(len(names)) for name in names[rank]]
    more = f" and {len(images) - _NAMED_IMAGES} more" if len(images) > _NAMED_IMAGES else ""
    return f"{what} not finite, for {in_a_row} steps in a row; the images are {', '.join(images[:_NAMED_IMAGES])}{more}"
