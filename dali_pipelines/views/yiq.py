"""DALI's own hue shift, as a matrix on RGB. It rotates the chroma plane of YIQ."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# From dali/operators/image/color/color_twist.h of NVIDIA/DALI 2.4. DALI's matrix back to RGB is this one's inverse.
_YIQ_OF_RGB = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])


def hue_matrix(turns: float) -> NDArray[np.float32]:
    """Return the matrix of a hue shift, (3, 3) float32, from RGB to RGB.

    Args:
        turns: Shift, in turns of the color wheel.
    """
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    rotation = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    matrix: NDArray[np.float32] = (np.linalg.inv(_YIQ_OF_RGB) @ rotation @ _YIQ_OF_RGB).astype(np.float32)
    return matrix
