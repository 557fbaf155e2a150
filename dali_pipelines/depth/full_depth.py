"""Open the images of a source at full depth: more than 8 bits, floats, or any number of channels."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.depth.decoded import Decoded, Request
from dali_pipelines.depth.packages import MissingPackageError
from dali_pipelines.depth.readers import is_eight_bits, read_image
from dali_pipelines.depth.source import Found, FullDepthSource, decoded_image
from dali_pipelines.depth.value_range import Rule, Sample, ValueRange, parse_value_range, resolve
from dali_pipelines.errors import StorageError
from dali_pipelines.sources.base import ImageSource
from dali_pipelines.views.params import MOST_PIXELS

logger = logging.getLogger(__name__)

SAMPLED_IMAGES = 256
_SAMPLED_GROUPS = 16
# Of each sampled image.
_SAMPLED_VALUES = 4096
_MOST_CHANNELS = 4096
_FIRST_TRIES = 16
_THREADS = 8
_PAGES = "Name the channels to read the pages of a TIFF as channels; store frames of DICOM as files of their own"


def full_depth(
    source: ImageSource,
    *,
    value_range: ValueRange | Rule = "auto",
    channels: Sequence[int] | None = None,
    max_pixels: int = MOST_PIXELS,
) -> ImageSource:
    """Return a source of the same images at full depth, or the source itself if its first image has 8 bits.

    The first image decides. If it is gray, RGB, RGBA or a palette of up to 8 bits, `value_range` is auto and `channels`
    is None, then the source itself is returned. Otherwise the result is a FullDepthSource. It reads 16-bit PNG, TIFF,
    JPEG 2000, .npy, DICOM and arrays at full depth, and maps the value range to 0 to 255, as float32.

    Args:
        source: Source of the images.
        value_range: Which values become 0 and 255:

            - "auto": the range of the type. Whole numbers of more than 8 bits: 10, 12, 14 or 16 bits, the least that
              hold the largest value of the sample. Floats from 0 to 1: 0 to 1. Others: percentiles(0.1, 99.9).
            - (lo, hi), or one such pair for each channel.
            - "percentiles(p, q)" of the sample, for each channel.
            - "window": the window that each DICOM file has.

            The sample is up to 256 images, evenly spaced.
        channels: Numbers of the stored channels that are used, from 0, in this order. Default: all except alpha.
        max_pixels: Largest height times width of an encoded image, in px; a larger image is a bad image.

    Raises:
        ValueError: If an argument is not allowed, no range can be found, or a package for the format is missing.
        StorageError: If a remote storage does not answer.

    Examples:
        >>> source = full_depth(image_folder("scans"), value_range="percentiles(1, 99)")
        >>> source.value_range, source.found.bits
    """
    rule = parse_value_range(value_range)
    request = Request(checked_channels(channels), max_pixels)
    is_default = rule.kind == "auto" and channels is None
    if source.kind == "pixels" and source.pixel_dtype != np.uint8:
        if is_default:
            return source
        raise ValueError("the source has its value range already; give the range and the channels where it is opened")
    first = _first_image(source, request, is_default=is_default)
    return source if first is None else _opened(source, rule, request, *first)


def _first_image(source: ImageSource, request: Request, *, is_default: bool) -> tuple[int, Decoded] | None:
    """Return the position and the pixels of the first image that can be read, or None if it has 8 bits as always.

    Raises:
        ValueError: If a package is missing. Or if none of the first images can be read, and the user chose a range or
            channels; without a choice the loader names them.
    """
    failure = ""
    for index in range(min(len(source), _FIRST_TRIES)):
        try:
            content = source.read(index)
            if is_default and _is_eight_bits(source, content, request):
                return None
            return index, decoded_image(source, content, request)
        except StorageError:
            raise
        except MissingPackageError as error:
            raise MissingPackageError(f"{source.place(index)}: {error}") from error
        except Exception as error:  # decoders raise whatever they raise
            failure = failure or f"{source.place(index)}: {type(error).__name__}: {error}"
    if is_default and source.kind != "raw":
        return None
    raise ValueError(f"none of the first {min(len(source), _FIRST_TRIES)} images can be read: {failure}")


def _is_eight_bits(source: ImageSource, content: NDArray[Any], request: Request) -> bool:
    if source.kind in ("pixels", "raw"):
        return content.dtype == np.uint8 and content.shape[2] == 3
    if not is_eight_bits(content, request.max_pixels):
        return False
    read_image(content, request)  # raises if it is damaged
    return True


def _opened(source: ImageSource, rule: Rule, request: Request, index: int, first: Decoded) -> FullDepthSource:
    """Return the source whose range is resolved over the sample."""
    place = source.place(index)
    if rule.kind == "window" and first.window is None:
        raise ValueError(
            f"value_range: window is not allowed for {place}, because it has no window; only DICOM files with"
            " WindowCenter and WindowWidth have one; use auto or [lo, hi]"
        )
    if first.left_out:
        logger.warning("%s: %s are not read. %s", place, first.left_out, _PAGES)
    needs_sample = rule.kind in ("auto", "percentiles")
    statistics = [_statistics(first)]
    if needs_sample:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
            others = (each for each in sampled_positions(source).tolist() if each != index)
            found = threads.map(lambda each: _sampled(source, each, request, first), others)
            statistics += [each for each in found if each is not None]
    sample = _joined(statistics, first)
    resolved = resolve(rule, sample)
    return FullDepthSource(
        source,
        request=request,
        value_range=resolved,
        found=Found(
            format=first.format,
            dtype=first.values.dtype,
            bits=first.bits,
            channels=first.values.shape[2],
            least=float(sample.least.min()),
            most=float(sample.most.max()),
            images=len(statistics),
            constant_images=sum(bool((each.least == each.most).all()) for each in statistics),
        ),
    )


def sampled_positions(source: ImageSource) -> NDArray[np.int64]:
    """Return the positions of the images that the rule of the range looks at, up to 256, evenly spaced.

    Images that are stored in groups, such as the row groups of parquet files, are taken from at most 16 groups, because
    a group is decoded, and perhaps fetched, as a whole.

    Args:
        source: Source of the images.
    """
    positions = np.unique(np.linspace(0, len(source) - 1, SAMPLED_IMAGES).astype(np.int64))
    if source.groups is None:
        return positions
    ends = np.append(source.groups[1:], len(source))
    group_of = np.searchsorted(source.groups, positions, side="right") - 1
    is_grouped = (ends - source.groups)[group_of] > 1
    used = np.unique(group_of[is_grouped])
    if len(used) <= _SAMPLED_GROUPS:
        return positions
    kept = used[np.linspace(0, len(used) - 1, _SAMPLED_GROUPS).astype(np.int64)]
    of_each = max(1, int(is_grouped.sum()) // _SAMPLED_GROUPS)
    inside = np.linspace(source.groups[kept], ends[kept] - 1, of_each).astype(np.int64)
    return np.unique(np.concatenate([positions[~is_grouped], inside.ravel()]))


def _sampled(source: ImageSource, index: int, request: Request, first: Decoded) -> Sample | None:
    """Return what an image says about the range, or None if it is bad. The loader names it when it is its turn."""
    try:
        decoded = decoded_image(source, source.read(index), request)
    except StorageError:
        raise
    except MissingPackageError as error:
        raise MissingPackageError(f"{source.place(index)}: {error}") from error
    except Exception:  # decoders raise whatever they raise
        return None
    if (decoded.values.dtype, decoded.values.shape[2]) != (first.values.dtype, first.values.shape[2]):
        return None
    return _statistics(decoded)


def _statistics(decoded: Decoded) -> Sample:
    """Return the extremes of an image, and some of its values, evenly spaced. Missing values do not count."""
    values = decoded.values.reshape(-1, decoded.values.shape[2])
    if decoded.missing is not None:
        is_measured = ~decoded.missing.reshape(len(values), -1).any(axis=1)
        # An image without a measurement counts with its missing values.
        values = values[is_measured] if is_measured.any() else np.nan_to_num(values[:1])
    return Sample(
        decoded.values.dtype,
        least=values.min(axis=0).astype(np.float64),
        most=values.max(axis=0).astype(np.float64),
        bounds=decoded.bounds,
        values=values[:: -(-len(values) // _SAMPLED_VALUES)].astype(np.float64),
    )


def _joined(statistics: Sequence[Sample], first: Decoded) -> Sample:
    bounds = [each.bounds for each in statistics if each.bounds is not None]
    return Sample(
        first.values.dtype,
        least=np.min([each.least for each in statistics], axis=0),
        most=np.max([each.most for each in statistics], axis=0),
        bounds=(min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else None,
        values=np.concatenate([each.values for each in statistics]),
    )


def checked_channels(channels: Sequence[int] | None, *, key: str = "channels") -> tuple[int, ...] | None:
    """Return the numbers of channels as a tuple.

    Args:
        channels: Numbers from 0, or None.
        key: Name of the key or argument, for messages.

    Raises:
        ValueError: If they are not a list of whole numbers from 0.
    """
    if channels is None:
        return None
    is_list = isinstance(channels, (list, tuple)) and 1 <= len(channels) <= _MOST_CHANNELS
    if not is_list or any(isinstance(each, bool) or not isinstance(each, int) or each < 0 for each in channels):
        raise ValueError(
            f"{key}: {str(channels)[:100]} is not allowed; give a list of the channels' numbers, from 0, such as"
            " [3, 2, 1]"
        )
    return tuple(channels)
