"""Read TIFF, BigTIFF and GeoTIFF at full depth, with all their channels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dali_pipelines.decoding.read_pixels import decode
from dali_pipelines.depth.decoded import Decoded, Request
from dali_pipelines.depth.packages import import_tifffile

MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
# TIFF tags.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _DESCRIPTION, _SAMPLES_PER_PIXEL, _EXTRA_SAMPLES, _SAMPLE_FORMAT = (
    258, 262, 270, 277, 338, 339,
)  # fmt: skip
_GDAL_NODATA = 42113
# Values of the tag for the photometric interpretation.
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
# JPEG compressions, which tifffile decodes from YCbCr to RGB.
_JPEG = (6, 7, 34892)
_ALPHA = (1, 2)
# Compressions that DALI decodes: none, LZW, deflate, PackBits, deflate by its old number, Zstandard.
_COMPRESSIONS_OF_DALI = (1, 5, 8, 32773, 32946, 50000)
# Letters of tifffile for axes: what they mean is written in the file (ImageJ, OME), or is not known.
_CHANNEL_AXES = "CS"
_UNKNOWN_AXES = "QI"
# A file that tifffile has written without `photometric` has images of (H, W, C) as pages of (W, C).
_MOST_INNER_CHANNELS = 16


def is_read_by_pil(content: NDArray[np.uint8], max_pixels: int) -> bool:
    """Return whether a TIFF is gray, RGB, RGBA, CMYK or a palette of at most 8 bits, which PIL reads as a whole.

    Args:
        content: Bytes of the file, (n,) uint8.
        max_pixels: Largest height times width, in px.
    """
    try:
        with Image.open(io.BytesIO(content.data)) as image:
            tags, size = image.tag_v2, image.size  # type: ignore[attr-defined]
            is_stack = getattr(image, "n_frames", 1) > 1
        decode(content, max_pixels)
    except Exception:  # PIL raises whatever its decoders raise
        return False
    samples = tags.get(_SAMPLES_PER_PIXEL, 1)
    color_samples = {_RGB: 3, _CMYK: 4, _YCBCR: 3}.get(tags.get(_PHOTOMETRIC), 1)
    extra = tags.get(_EXTRA_SAMPLES, ())
    if samples - len(extra) != color_samples or not set(extra) <= set(_ALPHA):
        return False
    if max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8 or set(tags.get(_SAMPLE_FORMAT, ())) - {1, 4}:
        return False
    marks = ("ImageJ=", "<OME", '"shape"')
    if not is_stack or not any(mark in str(tags.get(_DESCRIPTION, "")) for mark in marks):
        return True
    # The pages may be channels.
    values = read_tiff(content, Request(None, max_pixels)).values
    return values.shape == (*size[::-1], color_samples) and values.dtype == np.uint8


def read_tiff(content: NDArray[np.uint8], request: Request) -> Decoded:
    """Return the pixels of the first image of a TIFF.

    Pages are channels if the file calls them so (ImageJ and OME do), or if channels are requested and the file does not
    say what its pages are. Otherwise only the first page is read.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        Exception: If the file is damaged, or of a kind that is not read. The class is whatever tifffile raises.
    """
    tifffile = import_tifffile()
    with tifffile.TiffFile(io.BytesIO(content.data)) as file:
        series = file.series[0]
        page = series.keyframe
        _check_kind(page)
        request.check_size(page.imagelength, page.imagewidth)
        values, channels_of_page, left_out = _planes(series, request, len(content))
        alpha = _alpha(page) if channels_of_page == page.samplesperpixel == values.shape[2] else ()
        if page.photometric == _PALETTE:
            values = _colored(values, page.colormap)
        values = request.selected(values, alpha=alpha)
        bits = page.bitspersample
        if page.photometric == _PALETTE:
            bits, is_known = values.dtype.itemsize * 8, True
        else:
            is_known = values.dtype.kind in "bu" and bits not in (16, 32, 64)
        missing = _missing(values, page.nodata) if _GDAL_NODATA in page.tags else None
        return Decoded(
            "TIFF",
            values,
            bits,
            bounds=(0.0, float(2**bits - 1)) if is_known else None,
            is_inverted=page.photometric == _MIN_IS_WHITE,
            missing=missing,
            left_out=left_out,
        )


def channels_for_dali(content: NDArray[np.uint8], request: Request) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """Return the type of a TIFF and the numbers of the channels that are used, if DALI decodes all of it unchanged.

    These are files of one page with uint16 or float32, uncompressed or with a compression of libtiff, without nodata.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        Exception: If the file is damaged, or the image is too large. The class is whatever tifffile raises.
    """
    with import_tifffile().TiffFile(io.BytesIO(content.data)) as file:
        series = file.series[0]
        page, dtype = series.keyframe, series.dtype
        is_plain = (
            len(file.pages) == 1
            and series.axes == page.axes
            and page.axes in ("YX", "YXS")
            and dtype in (np.uint16, np.float32)
            and page.bitspersample == 8 * dtype.itemsize
            and page.photometric in (_MIN_IS_BLACK, _RGB)
            and page.compression in _COMPRESSIONS_OF_DALI
            and page.fillorder == 1
            and _GDAL_NODATA not in page.tags
        )
        if not is_plain:
            return None
        request.check_size(page.imagelength, page.imagewidth, page.samplesperpixel)
        _check_whole(page, len(content))
        return dtype.newbyteorder("="), request.numbers(page.samplesperpixel, alpha=_alpha(page))


def _check_kind(page: Any) -> None:
    """Raise if the samples are colors of another kind than RGB."""
    kind = int(page.photometric)
    if kind in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE) or (kind == _YCBCR and int(page.compression) in _JPEG):
        return
    name = getattr(page.photometric, "name", kind)
    raise ValueError(
        f"the photometric interpretation {name} is not read at this depth or with this choice of channels; save the"
        " image as gray or RGB"
    )


def _planes(series: Any, request: Request, n_bytes: int) -> tuple[NDArray[Any], int, str]:
    """Return the pixels, (H, W, C), the number of channels of each page, and what was not read."""
    page = series.keyframe
    outer = series.axes[: len(series.axes) - len(page.axes)]
    if series.axes != outer + page.axes or series.shape[len(outer) :] != page.shape:
        raise ValueError(f"pages with the axes {page.axes} in a stack of axes {series.axes} are not read")
    if _is_written_by_rows(series, page):
        values = series.asarray(maxworkers=1)
        request.check_size(*values.shape)
        return values, values.shape[2], ""
    are_channels = _CHANNEL_AXES + (_UNKNOWN_AXES if request.channels is not None else "")
    sizes = series.shape[: len(outer)]
    wanted = (
        np.arange(int(np.prod(sizes)))
        .reshape(sizes)[np.ix_(*(range(size if axis in are_channels else 1) for axis, size in zip(outer, sizes)))]
        .ravel()
    )
    samples = page.shape[page.axes.index("S")] if "S" in page.axes else 1
    request.check_size(page.imagelength, page.imagewidth, samples * len(wanted))
    if series.dataoffset is not None:
        # The pages are stored one after the other, perhaps with one directory for all.
        if series.nbytes > n_bytes:
            raise ValueError(f"the pages need {series.nbytes} bytes, and the file has {n_bytes}; it is truncated")
        planes = series.asarray(maxworkers=1).reshape(-1, *page.shape)
        planes = planes if len(planes) == len(wanted) else planes[wanted]
    else:
        pages = [series.pages[int(number)] for number in wanted]
        for each in pages:
            _check_whole(each, n_bytes)
        decoded = [each.asarray(maxworkers=1).reshape(page.shape) for each in pages]
        planes = decoded[0][None] if len(decoded) == 1 else np.stack(decoded)
    axes = page.axes
    for axis in set(axes) - set("YXS"):
        planes = planes.take(0, axis=1 + axes.index(axis))
        axes = axes.replace(axis, "")
    planes = planes[..., None] if "S" not in axes else np.moveaxis(planes, 1 + axes.index("S"), -1)
    height, width = planes.shape[1:3]
    n_left = int(np.prod(sizes)) // len(wanted) - 1
    left_out = f"{n_left} more page(s)" if n_left else ""
    return np.moveaxis(planes, 0, 2).reshape(height, width, -1), samples, left_out


def _is_written_by_rows(series: Any, page: Any) -> bool:
    """Return whether tifffile has stored an image of (H, W, C) as H pages of (W, C), as it does for gray."""
    return bool(
        series.kind == "shaped"
        and series.axes in {f"{axis}YX" for axis in _UNKNOWN_AXES}
        and series.shape[2] <= _MOST_INNER_CHANNELS < min(series.shape[:2])
    )


def _check_whole(page: Any, n_bytes: int) -> None:
    """Raise if a part of a page is beyond the end of the file. tifffile would fill it with zeros."""
    end = max((begin + count for begin, count in zip(page.dataoffsets, page.databytecounts)), default=0)
    if end > n_bytes:
        raise ValueError(f"the pixels end at byte {end}, and the file has {n_bytes} bytes; it is truncated")


def _alpha(page: Any) -> list[int]:
    """Return the numbers of the samples that are alpha."""
    extra = tuple(page.extrasamples)
    first = page.samplesperpixel - len(extra)
    return [first + number for number, kind in enumerate(extra) if kind in _ALPHA]


def _colored(indices: NDArray[Any], colors: NDArray[np.uint16]) -> NDArray[Any]:
    """Return the colors of a palette image. With up to 8 bits they have 8 bits, as PIL reads them."""
    rgb = np.moveaxis(colors[:, indices[..., 0]], 0, -1)
    return (rgb >> 8).astype(np.uint8) if colors.shape[1] <= 256 else rgb


def _missing(values: NDArray[Any], nodata: float) -> NDArray[np.bool_] | None:
    is_missing = np.isnan(values) if np.isnan(nodata) else values == nodata
    return is_missing if is_missing.any() else None
