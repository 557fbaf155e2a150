"""A .npy file is an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.dali_pipelines.depth.deep_files import FIVE, GRAY, npy, read


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "u4", "i8", "f2", ">f4", "f8", "?"])
def test_types(dtype: str) -> None:
    values = (GRAY % 2 if dtype == "?" else GRAY % 256).astype(dtype)
    decoded = read(npy(values))
    np.testing.assert_array_equal(decoded.values[..., 0], values.astype("u1" if dtype == "?" else dtype))
    assert decoded.values.dtype.isnative
    assert decoded.bounds == ((0, 255) if decoded.values.dtype == np.uint8 else None)


def test_shapes() -> None:
    np.testing.assert_array_equal(read(npy(FIVE)).values, FIVE)
    np.testing.assert_array_equal(read(npy(np.asfortranarray(FIVE)), [4, 0]).values, FIVE[..., [4, 0]])


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (FIVE.transpose(2, 0, 1), r"shape \(5, 40, 28\) has the channels first; .*save array.transpose\(1, 2, 0\)"),
        (FIVE[None], r"shape \(1, 40, 28, 5\) is no image; it must be \(H, W\) or \(H, W, C\)"),
        (FIVE[:0], "28 x 0 pixels of 5 channels are no image"),
        (FIVE.astype(complex), "pixels of type complex128 are not read"),
        (np.full((4, 4), None), "Python objects"),
        (np.zeros((101, 100), np.uint8), "100 x 101 pixels are more than max_pixels, 10000"),
        (np.full((4, 4), np.nan), "16 of 16 values are NaN or infinite"),
    ],
)
def test_what_is_refused(array: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        read(npy(array) if array.dtype != object else b"\x93NUMPY\x01\x00v\x00" + _object_header())


def _object_header() -> bytes:
    return b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }".ljust(117) + b"\n"


def test_a_truncated_file_is_named() -> None:
    with pytest.raises(ValueError, match="need 2240 bytes, and it has 2230; it is truncated or damaged"):
        read(npy(GRAY)[:-10])
