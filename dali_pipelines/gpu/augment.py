"""Launch the kernels that turn resized crops into views."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from dali_pipelines.gpu import kernels
from dali_pipelines.gpu.table import ViewTable
from dali_pipelines.views.params import ViewParams

# The sum of luma is computed in int32, which is enough up to this size.
MOST_SIZE_PX = 2048
# CUDA's limit for the second dimension of a grid.
MOST_SAMPLES = 65_535
# Positions in a crop are int32, and those of the last tile may be up to a tile behind its end.
MOST_VALUES = 2**30
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# With the default, True, multiplications and additions are fused, and views differ from those of the CPU.
_EXACT = {"enable_fp_fusion": False}


class Tiles(NamedTuple):
    """The work of one program of each kernel. All numbers are powers of 2.

    Args:
        pixels: Pixels per program of the color kernels.
        values: Values per program of the blur along rows.
        lines: Lines per program of the last kernel.
        line_values: Values of each of these lines.
        warps: Warps per program.
    """

    pixels: int = 1024
    values: int = 1024
    lines: int = 32
    line_values: int = 64
    warps: int = 8


def augment(
    pixels: Tensor,
    table: ViewTable,
    *,
    view: ViewParams,
    dtype: torch.dtype = torch.float32,
    tiles: Tiles = Tiles(),  # noqa: B008
) -> Tensor:
    """Return the views of crops after their resize. The kernels are queued on the current CUDA stream.

    The views are bit-identical to those of the native backend's kernel for the same crops (bfloat16 and float16:
    rounded to nearest). The pixels are not changed. Keep them until the queued work is done.

    With TRITON_INTERPRET=1 in the environment, the kernels also run on CPU tensors, slowly.

    Args:
        pixels: Crops after their resize, contiguous.
        table: Random numbers of the view, from `view_table`.
        view: Parameters of the view.
        dtype: Type of the views: float32, bfloat16 or float16.
        tiles: Work of one program of each kernel.

    Shape:
        - pixels: (n, S, S, C) uint8. C is 3, or view.channels.
        - Output: (n, view.channels, S, S), channels_last, on the device of the pixels.

    Raises:
        ValueError: If an argument has another shape, type or device; the message names it.
    """
    _check(pixels, table, view, dtype)
    n, size, _, channels = pixels.shape
    views = torch.empty((n, size, size, view.channels), dtype=dtype, device=pixels.device)
    if n > 0:
        # Triton launches on the current device.
        with torch.cuda.device(pixels.device if pixels.is_cuda else -1):
            on_device = _to_device(table, pixels.device)
            width = table.rows.shape[1]
            colored = _changed_colors(pixels, on_device, width, view, tiles) if table.has_colors else pixels
            crops = _Crops(pixels, colored, on_device, size, channels, width)
            # The scratch is not read if no sample is blurred.
            scratch = _blurred_rows(crops, tiles) if table.has_blur else on_device
            _write_views(crops, scratch, views, tiles)
    return views.permute(0, 3, 1, 2)


class _Crops(NamedTuple):
    """What the last two kernels have in common."""

    pixels: Tensor
    colored: Tensor
    table: Tensor
    size: int
    channels: int
    width: int


def _changed_colors(pixels: Tensor, table: Tensor, width: int, view: ViewParams, tiles: Tiles) -> Tensor:
    """Return crops after color steps and gray. Memory of samples that have neither is left as it is."""
    n, size, _, _ = pixels.shape
    count = triton.cdiv(size * size, tiles.pixels)
    sums = torch.empty((n, count), dtype=torch.int32, device=pixels.device)
    colored = torch.empty_like(pixels)
    constants = {"size": size, "width": width, "tiles": count, "in_yiq": view.hue_space == "yiq"}
    options = {"block": tiles.pixels, "num_warps": tiles.warps, **_EXACT}
    kernels.sum_luma[count, n](pixels, table, sums, **constants, **options)
    padded = triton.next_power_of_2(count)
    kernels.change_colors[count, n](pixels, colored, table, sums, padded_tiles=padded, **constants, **options)
    return colored


def _blurred_rows(crops: _Crops, tiles: Tiles) -> Tensor:
    """Return blurred rows as float32. Memory of samples without blur is left as it is."""
    pixels, colored, table, size, channels, width = crops
    scratch = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
    grid = triton.cdiv(size * size * channels, tiles.values), len(pixels)
    constants = {"size": size, "channels": channels, "width": width, "block": tiles.values}
    kernels.blur_rows[grid](pixels, colored, table, scratch, **constants, num_warps=tiles.warps, **_EXACT)
    return scratch


def _write_views(crops: _Crops, scratch: Tensor, views: Tensor, tiles: Tiles) -> None:
    pixels, colored, table, size, channels, width = crops
    view_channels = views.shape[3]
    across = triton.cdiv(size * view_channels, tiles.line_values)
    grid = triton.cdiv(size, tiles.lines) * across, len(pixels)
    constants = {"size": size, "channels": channels, "view_channels": view_channels, "width": width}
    options = {"lines": tiles.lines, "values": tiles.line_values, "num_warps": tiles.warps, **_EXACT}
    kernels.write_views[grid](pixels, colored, table, scratch, views, **constants, **options)


def _to_device(table: ViewTable, device: torch.device) -> Tensor:
    """Return the whole table on the device. From pinned memory the copy does not wait for the GPU."""
    values = torch.from_numpy(table.values)
    # torch keeps a pinned block until the copies that read it are done.
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def _check(pixels: Tensor, table: ViewTable, view: ViewParams, dtype: torch.dtype) -> None:
    """Raise a ValueError if the kernels would read or write something else than they should."""
    n, size = len(table.rows), view.size_px
    shape = f"({n}, {size}, {size}, C)"
    if pixels.ndim != 4 or pixels.shape[:3] != (n, size, size):
        raise ValueError(f"pixels: shape {tuple(pixels.shape)} is not allowed; it must be {shape}")
    channels = pixels.shape[3]
    if view.channels != channels and (view.channels, channels) != (1, 3):
        raise ValueError(
            f"pixels: {channels} channels are not allowed for views of {view.channels}; the numbers must be equal, or"
            " 3 for gray views"
        )
    if table.has_colors and channels != 3:
        raise ValueError(f"pixels: {channels} channels are not allowed with color steps or gray, which need 3")
    if pixels.dtype != torch.uint8 or not pixels.is_contiguous():
        layout = "contiguous" if pixels.is_contiguous() else "not contiguous"
        raise ValueError(f"pixels: {pixels.dtype}, {layout}, is not allowed; it must be torch.uint8 and contiguous")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype} is not allowed; it must be one of {', '.join(map(str, DTYPES))}")
    if size > MOST_SIZE_PX or n > MOST_SAMPLES or size * size * channels > MOST_VALUES:
        raise ValueError(
            f"pixels: {n} crops of {size} px and {channels} channels are not allowed; use at most {MOST_SAMPLES} crops,"
            f" {MOST_SIZE_PX} px and {MOST_VALUES} values per crop, or let DALI augment them"
        )
    if pixels.device.type != "cuda" and isinstance(kernels.write_views, triton.JITFunction):
        raise ValueError(
            f"pixels: device {pixels.device} is not allowed, because Triton's kernels need a CUDA device; move the"
            " pixels to one, or set TRITON_INTERPRET=1 before the start to run the kernels slowly on a CPU"
        )
