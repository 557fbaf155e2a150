"""Read an image that is a .npy file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.depth.decoded import Decoded, Request
from dali_pipelines.sources.array_files import check_size, read_header

MAGIC = b"\x93NUMPY"
_FEW_CHANNELS = 4
_MOST_CHANNELS = 16


def read_npy(content: NDArray[np.uint8], request: Request) -> Decoded:
    """Return the pixels of a .npy file, an array of (H, W) or (H, W, C).

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        ValueError: If the file is damaged, or its array is no image.
    """
    file = io.BytesIO(content.data)
    header = read_header(file)
    begin = file.tell()
    check_size(header, len(content) - begin)
    if len(header.shape) not in (2, 3):
        raise ValueError(f"an array of shape {header.shape} is no image; it must be (H, W) or (H, W, C)")
    height, width, channels = (*header.shape, 1)[:3]
    request.check_size(height, width, channels)
    if any(height <= most < min(width, channels) for most in (_FEW_CHANNELS, _MOST_CHANNELS)):
        raise ValueError(
            f"shape {header.shape} has the channels first; it must be (H, W, C); save array.transpose(1, 2, 0)"
        )
    flat: NDArray[Any] = np.frombuffer(content.data, header.dtype, offset=begin)
    array = flat.reshape(header.shape, order="F" if header.is_fortran else "C")
    values = request.selected(array.reshape(height, width, channels) if array.ndim == 2 else array)
    return Decoded("npy", values, values.dtype.itemsize * 8)
