"""Decode the first frame of DICOM pixel data, each transfer syntax by one fixed decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.depth.jpeg2000 import header_of
from dali_pipelines.depth.packages import import_decoder, import_pydicom

# Names of pydicom's plugins, each with the package that it needs. Others (GDCM, pylibjpeg-rle, and ljpeg of
# imagecodecs) can end the process if a file is damaged.
_JPEG = "1.2.840.10008.1.2.4."
_RLE = "1.2.840.10008.1.2.5"
_PLUGINS = {
    f"{_JPEG}50": ("pillow", "PIL"),
    f"{_JPEG}80": ("pyjpegls", "jpeg_ls"),
    f"{_JPEG}81": ("pyjpegls", "jpeg_ls"),
    _RLE: ("pydicom", "pydicom"),
    **{f"{_JPEG}{number}": ("pylibjpeg", "openjpeg") for number in (90, 91, 201, 202, 203)},
}
# JPEG of 12 bits and lossless JPEG, which libjpeg-turbo reads.
_BY_TURBO = tuple(f"{_JPEG}{number}" for number in (51, 57, 70))
_NO_SIZE = {0xC4, 0xC8, 0xCC}


def first_frame(dataset: Any) -> NDArray[Any]:
    """Return the stored values of the first frame, (H, W) or (H, W, 3). YBR becomes RGB.

    Args:
        dataset: Dataset of pydicom, with Rows and Columns.

    Raises:
        MissingPackageError: If the decoder of its transfer syntax is not installed.
        Exception: If the pixel data is damaged or not supported. The class is whatever the decoders raise.
    """
    pydicom = import_pydicom()
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or not syntax.is_encapsulated:
        return np.asarray(pydicom.pixels.pixel_array(dataset, index=0))
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=frames)
    if syntax != _RLE:
        _check_size(frame, (int(dataset.Rows), int(dataset.Columns)))
    if syntax in _BY_TURBO:
        return _by_turbo(pydicom, dataset, frame)
    if syntax not in _PLUGINS:
        raise ValueError(f"the transfer syntax {syntax.name} ({syntax}) is not read; convert the file")
    plugin, module = _PLUGINS[syntax]
    import_decoder(module)
    return np.asarray(pydicom.pixels.pixel_array(dataset, index=0, decoding_plugin=plugin))


def _by_turbo(pydicom: Any, dataset: Any, frame: bytes) -> NDArray[Any]:
    values: NDArray[Any] = import_decoder("imagecodecs").jpeg8_decode(frame)
    bits = int(dataset.BitsStored)
    if values.dtype.itemsize * 8 < bits:
        raise ValueError(f"the frame has {values.dtype.itemsize * 8} bits, and BitsStored is {bits}")
    if dataset.get("PixelRepresentation", 0):
        # Values are stored without the bits above the sign.
        unused = values.dtype.itemsize * 8 - bits
        values = (values << unused).view(np.dtype(f"i{values.dtype.itemsize}")) >> unused
    if values.ndim == 3 and str(dataset.PhotometricInterpretation).startswith("YBR_FULL"):
        values = pydicom.pixels.convert_color_space(values, "YBR_FULL", "RGB")
    return values


def _check_size(frame: bytes, size: tuple[int, int]) -> None:
    """Raise if the frame has another height and width than the dataset, which was compared with max_pixels."""
    header = header_of(np.frombuffer(frame, dtype=np.uint8))
    found = (header.height_px, header.width_px) if header else _size_of_jpeg(frame)
    if found != size:
        raise ValueError(f"the frame has the height and width {found}, and Rows and Columns are {size}")


def _size_of_jpeg(frame: bytes) -> tuple[int, int] | None:
    """Return height and width from the frame header of JPEG or JPEG-LS, or None if there is none."""
    begin = 2
    while begin + 9 <= len(frame) and frame[begin] == 0xFF:
        kind, length = frame[begin + 1], int.from_bytes(frame[begin + 2 : begin + 4], "big")
        if kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in _NO_SIZE):
            height, width = frame[begin + 5 : begin + 7], frame[begin + 7 : begin + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        begin += 2 + length if kind != 0xFF else 1
    return None
