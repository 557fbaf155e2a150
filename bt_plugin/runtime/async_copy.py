"""Numbers on their way from a device to the host, which goes on working meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor


class AsyncCopy:
    """A copy in the host's memory, begun and not waited for.

    Args:
        values: Of any shape; not changed before the copy is here.
    """

    def __init__(self, values: Tensor) -> None:
        # Into pinned memory, where it comes from a GPU.
        self._values = values.detach().to("cpu", non_blocking=True)
        self._event = None
        if values.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def is_here(self) -> bool:
        """Whether reading would not wait."""
        return self._event is None or self._event.query()

    def tolist(self) -> list[float]:
        """The numbers, once they are here."""
        if self._event is not None:
            self._event.synchronize()
        values: list[float] = self._values.tolist()
        return values
