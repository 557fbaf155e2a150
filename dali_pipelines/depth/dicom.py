"""Read DICOM: the values after the modality transform, and what says how to show them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.depth.decoded import Decoded, Request
from dali_pipelines.depth.dicom_frames import first_frame
from dali_pipelines.depth.packages import import_pydicom
from dali_pipelines.depth.value_range import Pair

_MAGIC = b"DICM"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_META_BEGIN, _META_BYTES = 144, 1024
_CHUNK_BYTES = 2**20
# Of everything but the pixels, and of a pixel: four values of 32 bits.
_MOST_OTHER_BYTES, _VALUE_BYTES = 2**24, 16
_GRAY = ("MONOCHROME1", "MONOCHROME2")
# The window functions that map a range of values to all levels.
_LINEAR, _LINEAR_EXACT = "LINEAR", "LINEAR_EXACT"


def is_dicom(head: bytes) -> bool:
    """Return whether a file is DICOM. Its preamble may be the begin of a TIFF.

    Args:
        head: Its first bytes, at least 132 if it has so many.
    """
    return head[128:132] == _MAGIC


def read_dicom(content: NDArray[np.uint8], request: Request) -> Decoded:
    """Return the pixels of the first frame of a DICOM file.

    Gray values are those after the rescale slope and intercept, or the modality's table. YBR and palettes become RGB.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        Exception: If the file is damaged, or of a kind that is not read. The class is whatever pydicom raises.
    """
    pydicom = import_pydicom()
    _check_inflated(content.data, request.max_pixels)
    dataset = pydicom.dcmread(io.BytesIO(content.data))
    for name in ("Rows", "Columns", "PhotometricInterpretation"):
        if name not in dataset:
            raise ValueError(f"the DICOM file has no {name}; it has no image, or is damaged")
    samples = int(dataset.get("SamplesPerPixel", 1))
    request.check_size(int(dataset.Rows), int(dataset.Columns), samples)
    stored = first_frame(dataset)
    interpretation = dataset.PhotometricInterpretation
    bits, bounds = int(dataset.get("BitsStored", dataset.BitsAllocated)), None
    if interpretation in _GRAY:
        values, bounds = _rescaled(pydicom, dataset, stored)
    elif interpretation == "PALETTE COLOR":
        values = pydicom.pixels.apply_color_lut(stored, dataset)[..., :3]
        bits, bounds = values.dtype.itemsize * 8, (0.0, float(np.iinfo(values.dtype).max))
    elif samples == 3:
        values, bounds = stored, (0.0, float(2**bits - 1))
    else:
        raise ValueError(f"the photometric interpretation {interpretation} of {samples} samples is not read")
    values = values[..., None] if values.ndim == 2 else values
    is_wide = int(dataset.BitsAllocated) > 16
    missing = _padding(dataset, stored)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    return Decoded(
        "DICOM",
        request.selected(values.astype(np.float64 if is_wide else np.float32)),
        bits,
        bounds,
        is_inverted=interpretation == "MONOCHROME1",
        missing=None if missing is None else missing[..., None],
        window=_window(dataset),
        left_out=f"{frames - 1} more frame(s)" if frames > 1 else "",
    )


def _check_inflated(content: memoryview, max_pixels: int) -> None:
    """Raise if a deflated file needs much more memory than an image of max_pixels. pydicom inflates all of it."""
    if _DEFLATED not in bytes(content[:_META_BYTES]):
        return
    # The length of the file's meta information is its first element.
    (size,) = struct.unpack_from("<I", content, _META_BEGIN - 4)
    most, n_bytes = _MOST_OTHER_BYTES + _VALUE_BYTES * max_pixels, 0
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    rest = bytes(content[_META_BEGIN + size :])
    while rest and not inflate.eof:
        n_bytes += len(inflate.decompress(rest, _CHUNK_BYTES))
        rest = inflate.unconsumed_tail
        if n_bytes > most:
            raise ValueError(f"the deflated file has more than {most} bytes, which max_pixels, {max_pixels}, allows")


def _rescaled(pydicom: Any, dataset: Any, stored: NDArray[Any]) -> tuple[NDArray[Any], Pair | None]:
    """Return the values after the modality transform, and the range that BitsStored gives them."""
    is_unsigned = "PixelData" in dataset and not dataset.get("PixelRepresentation", 0)
    most = 2 ** int(dataset.get("BitsStored", 0)) - 1
    if "ModalityLUTSequence" in dataset:
        return pydicom.pixels.apply_modality_lut(stored, dataset), None
    transform = _of_first_frame(dataset, "RescaleSlope", "PixelValueTransformationSequence")
    if transform is None:
        return stored, (0.0, float(most)) if is_unsigned else None
    slope, intercept = float(transform.RescaleSlope), float(transform.get("RescaleIntercept", 0))
    if not slope:
        raise ValueError("the rescale slope is 0; correct the file")
    ends = sorted((intercept, most * slope + intercept))
    return stored * slope + intercept, (ends[0], ends[1]) if is_unsigned else None


def _window(dataset: Any) -> Pair | None:
    """Return the values that the first window maps to 0 and 255, by part 3, C.11.2.1.2 of the standard."""
    source = _of_first_frame(dataset, "WindowCenter", "FrameVOILUTSequence")
    if source is None or source.get("WindowWidth") in (None, ""):
        return None
    function = source.get("VOILUTFunction", _LINEAR) or _LINEAR
    center, width = (_first(source[name].value) for name in ("WindowCenter", "WindowWidth"))
    if function == _LINEAR:
        center, width = center - 0.5, width - 1
    elif function != _LINEAR_EXACT:
        return None
    return (center - width / 2, center + width / 2) if width > 0 else None


def _of_first_frame(dataset: Any, name: str, sequence: str) -> Any:
    """Return what has an attribute: the dataset, or the item of the first frame or of all frames; None without it."""
    holders = [dataset]
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in list(dataset.get(groups) or ())[:1]:
            holders += list(group.get(sequence) or ())[:1]
    return next((holder for holder in holders if holder.get(name) not in (None, "")), None)


def _first(value: Any) -> float:
    return float(value if isinstance(value, (int, float)) or not hasattr(value, "__getitem__") else value[0])


def _padding(dataset: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which pixels are padding outside of the image, or None."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int) or stored.ndim != 2:
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((first, last if isinstance(last, int) else first))
    is_padding = (stored >= low) & (stored <= high)
    return is_padding if is_padding.any() else None
