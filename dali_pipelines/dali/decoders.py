"""Decode images, whole or a window of them. Both are functions from DALI node to DALI node, for CPU and GPU."""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn, types
from nvidia.dali.pipeline import DataNode, do_not_convert


def decode(encoded: DataNode, device: str, hw_decoder_load: float) -> DataNode:
    """Decode an image to RGB pixels. EXIF orientation is ignored, as in PIL and torchvision.

    Args:
        encoded: Bytes of the image, on the CPU.
        device: Device of the pixels, "cpu" or "gpu".
        hw_decoder_load: Share of the JPEGs that the GPU's decoding hardware decodes, 0 to 1.
    """
    return fn.decoders.image(encoded, output_type=types.RGB, **_decoding(device, hw_decoder_load))


def decode_stored(encoded: DataNode, dtype: types.DALIDataType) -> DataNode:
    """Decode an image on the CPU to the values of all channels that it stores, without a conversion.

    Args:
        encoded: Bytes of the image, on the CPU.
        dtype: Type of the stored values. DALI scales values of other types.
    """
    return fn.decoders.image(encoded, output_type=types.ANY_DATA, dtype=dtype, **_decoding("cpu", 0.0))


def decode_window(encoded: DataNode, start: DataNode, end: DataNode, device: str, hw_decoder_load: float) -> DataNode:
    """Decode a window of an image to RGB pixels. DALI need not decode the rest of the image.

    Args:
        encoded: Bytes of the image, on the CPU.
        start: Top left corner of the window, (2,) int32 px.
        end: Bottom right corner of the window, (2,) int32 px.
        device: Device of the pixels, "cpu" or "gpu".
        hw_decoder_load: Share of the JPEGs that the GPU's decoding hardware decodes, 0 to 1.
    """
    return fn.decoders.image_slice(
        encoded, start=start, end=end, axes=[0, 1], output_type=types.RGB, **_decoding(device, hw_decoder_load)
    )


@do_not_convert
def _decoding(device: str, hw_decoder_load: float) -> dict[str, Any]:
    if device == "cpu":
        return {"adjust_orientation": False}
    # Without fancy upsampling nvJPEG repeats chroma pixels. libjpeg-turbo, which PIL uses, interpolates them.
    options = {"jpeg_fancy_upsampling": True, "hw_decoder_load": hw_decoder_load}
    return {"device": "mixed", "adjust_orientation": False, **options}
