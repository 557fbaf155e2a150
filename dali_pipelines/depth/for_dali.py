"""Say which files DALI decodes to the values that our own readers return. The files are not decoded for this."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.depth import jpeg2000, png, tiff
from dali_pipelines.depth.decoded import Request
from dali_pipelines.depth.dicom import is_dicom

# Formats and types that DALI decodes unchanged. It scales other types: 8 bits to 16, for example.
FORMATS = ("PNG", "TIFF", "JPEG 2000")
TYPES = (np.dtype(np.uint16), np.dtype(np.float32))
_HEAD_BYTES = 132


class Stored(NamedTuple):
    """The values that a file stores.

    Args:
        dtype: Type of the values.
        channels: Numbers of the stored channels that are used, from 0, in their order.
    """

    dtype: np.dtype[Any]
    channels: tuple[int, ...]


def stored_for_dali(content: NDArray[np.uint8], request: Request) -> Stored | None:
    """Return what a file stores if DALI decodes all of its channels unchanged, or None.

    None also means a file that is damaged or too large. Our readers then say what is wrong with it.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.
    """
    head = content[:_HEAD_BYTES].tobytes()
    if is_dicom(head):
        return None
    try:
        if head.startswith(tiff.MAGICS):
            found = tiff.channels_for_dali(content, request)
            return None if found is None else Stored(*found)
        of_format = png if png.is_deep_png(head) else jpeg2000
        channels = of_format.channels_for_dali(content, request)
    except Exception:  # tifffile raises whatever it raises
        return None
    return None if channels is None else Stored(np.dtype(np.uint16), channels)
