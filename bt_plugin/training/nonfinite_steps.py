"""Steps that are NaN or infinite: they leave no trace in the model, and the host need not wait to know of them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bt_plugin.runtime import collectives
from bt_plugin.runtime.async_copy import AsyncCopy

# In a message.
_NAMED_IMAGES = 16


class NonFiniteSteps:
    """Counts steps whose loss or gradient is not finite, on the device, and takes back what their forward pass did.

    All ranks decide alike: the loss is of all of them, and so are gradients after their averaging.

    Args:
        model: Whose gradients are looked at; its buffers, such as BatchNorm's running statistics, would stay NaN.
        device: Of the model.
        most_in_a_row: After which training has diverged.
        total: Such steps so far.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, most_in_a_row: int, total: int = 0) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        dtypes = sorted({buffer.dtype for buffer in model.buffers()}, key=str)
        self._buffers = [_Buffers([b for b in model.buffers() if b.dtype == dtype]) for dtype in dtypes]
        self._most_in_a_row = most_in_a_row
        self._one = torch.ones((), device=device)
        self._in_a_row = torch.zeros((), device=device)
        self.total = torch.full((), float(total), device=device)
        """Scalar, on the device."""
        self._unread: deque[_Step] = deque()

    @torch.no_grad()
    def found_inf(self, loss: Tensor) -> Tensor:
        """Whether loss or gradients are not finite: 1 or 0, a float32 scalar on the device."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        found_inf = loss.detach().isfinite().logical_not().float()
        # As GradScaler does, without its scale: one pass over all gradients.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, self._one)
        return found_inf

    @torch.no_grad()
    def settle(self, step: int, found_inf: Tensor, finite: Tensor, names: list[str]) -> None:
        """Counts a step, and keeps the buffers of a sound one, or restores them after another.

        Args:
            step: Its number.
            found_inf: 1 if something of it is not finite, else 0.
            finite: (W,) bool, whether each rank's embeddings are.
            names: Of this rank's images.
        """
        self.total += found_inf
        self._in_a_row = (self._in_a_row + 1) * found_inf
        for buffers in self._buffers:
            buffers.settle(found_inf > 0)
        numbers = torch.cat((self._in_a_row.unsqueeze(0), finite.float()))
        self._unread.append(_Step(step, AsyncCopy(numbers), names))

    def divergence(self, behind: int) -> str | None:
        """What went wrong, if too many steps in a row were not finite. To be called on every rank.

        Args:
            behind: Steps that may stay unread, so that the host has no need to wait for the newest.
        """
        while len(self._unread) > behind:
            step = self._unread.popleft()
            in_a_row, *finite = step.numbers.tolist()
            if in_a_row > self._most_in_a_row:
                names = collectives.all_gather_objects(step.names)
                return f"step {step.number}: {_explained(int(in_a_row), finite, names)}"
        return None


class _Step(NamedTuple):
    """numbers: steps in a row that are not finite, then each rank's 1 or 0."""

    number: int
    numbers: AsyncCopy
    names: list[str]


class _Buffers:
    """Of one dtype; side by side, they take a few kernels instead of some for each."""

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
    """What is not finite, of whose images."""
    ranks = [rank for rank, is_finite in enumerate(finite) if not is_finite]
    what = f"the embeddings of rank {', '.join(map(str, ranks))} are" if ranks else "the loss or its gradient is"
    images = [name for rank in ranks or range(len(names)) for name in names[rank]]
    more = f" and {len(images) - _NAMED_IMAGES} more" if len(images) > _NAMED_IMAGES else ""
    return f"{what} not finite, for {in_a_row} steps in a row, of the images {', '.join(images[:_NAMED_IMAGES])}{more}"
