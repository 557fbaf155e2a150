"""Decode images of more than 8 bits in a DALI graph, and map their value range to levels from 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import DataNode

from dali_pipelines.dali import augment, decoders
from dali_pipelines.depth.for_dali import Stored
from dali_pipelines.depth.source import FullDepthSource
from dali_pipelines.depth.value_range import Pair
from dali_pipelines.sources import ImageSource
from dali_pipelines.sources.base import Content

_NO_FILE = np.zeros(0, dtype=np.uint8)
_NO_PIXELS = np.zeros((0, 0, 0), dtype=np.float32)


class Deep(NamedTuple):
    """How a graph decodes images of more than 8 bits.

    Args:
        stored: Type of the stored values, and the channels that are used.
        value_range: Values of each of these channels that become 0 and 255.
    """

    stored: Stored
    value_range: tuple[Pair, ...]


def deep_of(source: ImageSource) -> Deep | None:
    """Return how DALI decodes the images of a source, or None if it does not, or they have 8 bits.

    Args:
        source: Source of the images.
    """
    if not isinstance(source, FullDepthSource) or source.stored is None or source.value_range == "window":
        return None
    return Deep(source.stored, source.value_range)


def files_and_pixels(contents: Sequence[Content]) -> list[list[NDArray[Any]]]:
    """Return the two inputs of `levels_of`: a file or pixels of each image, and something empty as the other.

    Args:
        contents: Bytes of a file, (n,) uint8, or levels, (H, W, C) float32, of each image.
    """
    return [
        [content if content.ndim == 1 else _NO_FILE for content in contents],
        [content if content.ndim == 3 else _NO_PIXELS for content in contents],
    ]


def levels_of(encoded: DataNode, pixels: DataNode, deep: Deep, device: str) -> tuple[DataNode, DataNode, DataNode]:
    """Return the levels of an image on the device, its stored shape, and whether it has values that are not finite.

    The levels are those of FullDepthSource.read, with the same operations in the same order.

    Args:
        encoded: Bytes of a file, on the CPU; none if the host has decoded it.
        pixels: Levels that the host has decoded, (H, W, C) float32, on the CPU; none if DALI decodes the file.
        deep: How files are decoded.
        device: Device of the levels, "cpu" or "gpu".

    Shape:
        - Levels: (H, W, C) float32, layout HWC; gray as three channels.
    """
    if encoded.shape()[0] > 0:
        shape = fn.peek_image_shape(encoded, adjust_orientation=False)
        # On the CPU also for a GPU, whose decoders may scale values of 12 bits. They have not yet been compared.
        values = _stored_values(encoded, deep.stored)
        levels = _mapped(values, deep.value_range)
        is_float = deep.stored.dtype.kind == "f"
        refused = _is_not_finite(values) if is_float else encoded.shape()[0] < 0
    else:
        shape = pixels.shape()
        levels = fn.reshape(pixels, layout="HWC")
        refused = encoded.shape()[0] < 0
    return levels.gpu() if device == "gpu" else levels, shape, refused


def _stored_values(encoded: DataNode, stored: Stored) -> DataNode:
    """Return the used channels of a file."""
    dtype = types.FLOAT if stored.dtype.kind == "f" else types.UINT16
    values = decoders.decode_stored(encoded, dtype)
    first, n = stored.channels[0], len(stored.channels)
    if stored.channels == tuple(range(first, first + n)):
        return values[:, :, first : first + n]
    return fn.cat(*(values[:, :, channel : channel + 1] for channel in stored.channels), axis=2)


def _mapped(values: DataNode, value_range: tuple[Pair, ...]) -> DataNode:
    """Map the range of each channel to 0 to 255, as depth.source.levels does."""
    pairs = value_range * 3 if len(value_range) == 1 else value_range
    low, high = np.array(pairs, dtype=np.float32).T
    # Gray becomes three channels, because it has three pairs.
    levels = values - types.Constant(low, device=values.device)
    if (low != 0).any() or (high != 255).any():
        levels = levels * 255.0 / types.Constant(high - low, device=values.device)
    return augment.clamped(levels)


def _is_not_finite(values: DataNode) -> DataNode:
    # NaN and infinity times 0 are NaN, which differs from every number.
    return fn.reductions.sum(values * 0.0) != 0.0
