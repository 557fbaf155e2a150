"""Copy numbers from a device to the host without waiting for them."""

from __future__ import annotations

import torch
from torch import Tensor


class AsyncCopy:
    """A copy in host memory that arrives in the background.

    Args:
        values: Tensor of any shape. It must not change before the copy has arrived.
    """

    def __init__(self, values: Tensor) -> None:
        # A copy from a GPU goes to pinned memory.
        self._values = values.detach().to("cpu", non_blocking=True)
        self._event = None
        if values.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def is_here(self) -> bool:
        """Whether the copy has arrived, so that reading does not wait."""
        return self._event is None or self._event.query()

    def tolist(self) -> list[float]:
        """Return the numbers. Wait for them if necessary."""
        if self._event is not None:
            self._event.synchronize()
        values: list[float] = self._values.tolist()
        return values
