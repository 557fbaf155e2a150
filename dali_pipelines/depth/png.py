"""Read PNG of 16 bits."""

from __future__ import annotations

import struct

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.io import ImageReadMode, decode_png

from dali_pipelines.depth.decoded import Decoded, Request

_HEADER = struct.Struct(">8s4x4sIIB")
_MAGIC = b"\x89PNG\r\n\x1a\n"


def is_deep_png(head: bytes) -> bool:
    """Return whether a file is a PNG of 16 bits.

    Args:
        head: Its first bytes, at least 32 if it has so many.
    """
    return len(head) > 25 and head[:8] == _MAGIC and head[12:16] == b"IHDR" and head[24] == 16


def read_png(content: NDArray[np.uint8], request: Request) -> Decoded:
    """Return the pixels of a PNG of 16 bits. The last of two or four channels is alpha.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        RuntimeError: If the file is damaged.
    """
    _, _, width, height, _ = _HEADER.unpack_from(content[:32].tobytes())
    request.check_size(height, width, 4)
    # The bytes are copied, because torch warns of read-only memory.
    pixels = decode_png(torch.from_numpy(np.array(content)), ImageReadMode.UNCHANGED)
    values = pixels.permute(1, 2, 0).contiguous().numpy()
    alpha = (values.shape[2] - 1,) if values.shape[2] in (2, 4) else ()
    return Decoded("PNG", request.selected(values, alpha=alpha), 16)
