"""A million names in one block of memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class Names(Sequence[str]):
    """A tuple of strings, packed: half of its memory, and loaded from a file as fast as that is read.

    Args:
        block: The names in UTF-8, one after the other, uint8.
        ends: (n,) int64, where each ends.
    """

    def __init__(self, block: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.block = block
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Packs names, as they come."""
        block, ends = bytearray(), array("q")
        for name in names:
            block += name.encode("utf-8", "surrogateescape")
            ends.append(len(block))
        return cls(np.frombuffer(bytes(block), dtype=np.uint8), np.frombuffer(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Names: ...
    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            return Names.of(self[each] for each in range(len(self))[index])
        index = range(len(self))[index]
        begin = self.ends[index - 1] if index else 0
        return self.block[begin : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")
