"""`pack`: write the images of a data set into tar shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bt_plugin.errors import UserError
from dali_pipelines.views.params import MOST_PIXELS, MOST_SIZE_PX

_MOST_THREADS = 4096


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "pack", help="write the images of a data set into tar shards, in WebDataset's layout"
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="images: a folder, a file list, tar shards, parquet files or an array file, as for data.train",
    )
    parser.add_argument("output", metavar="OUT", help="new folder for the shards; an interrupted one is resumed")
    parser.add_argument("--shards", type=int, required=True, metavar="N", help="number of shards")
    parser.add_argument(
        "--short-side",
        type=int,
        metavar="PX",
        help="reduce larger images to this many px of the shorter side, as JPEG (default: copy all bytes)",
    )
    parser.add_argument("--quality", type=int, help="JPEG quality with --short-side, 1 to 100 (default 95)")
    parser.add_argument(
        "--no-decode",
        action="store_true",
        help="do not decode the images that are copied; damaged ones are then copied too",
    )
    parser.add_argument(
        "--max-bad",
        type=int,
        default=100,
        metavar="N",
        help="stop when more images than this cannot be read (default 100)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MOST_PIXELS,
        help=f"largest height times width, as data.max_pixels (default {MOST_PIXELS})",
    )
    parser.add_argument("--num-threads", type=int, help="number of threads (default: four for each core, at least 16)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the shards, and print how to train on them. Return 1 if images were left out."""
    _check(arguments)
    from bt_plugin.tools.pack import pack
    from bt_plugin.tools.packed_image import Conversion
    from dali_pipelines.ranks import cores_per_rank
    from dali_pipelines.sources import open_source

    try:
        source = open_source(arguments.source)
    except ValueError as error:
        raise UserError(str(error)) from error
    output = Path(arguments.output)
    conversion = Conversion(
        arguments.short_side, arguments.quality or Conversion.quality, not arguments.no_decode, arguments.max_pixels
    )
    packed = pack(
        source,
        output,
        shards=arguments.shards,
        conversion=conversion,
        num_threads=arguments.num_threads or max(16, 4 * cores_per_rank()),
        max_bad=arguments.max_bad,
    )
    finished = arguments.shards - packed.new_shards
    already = f", {finished} of them by an earlier run" if finished else ""
    print(f"{packed.images} images in {arguments.shards} shards{already}. To train on them:\n")
    print(f'    data.train="{output}/*.tar"')
    if packed.left_out:
        print(f"\n{packed.left_out} images cannot be read, and are left out: {output}/bad.csv")
    return 1 if packed.left_out else 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise if an option has a value that is not allowed, before the images are opened."""
    for option, value, most in (
        ("--shards", arguments.shards, None),
        ("--short-side", arguments.short_side, 4 * MOST_SIZE_PX),
        ("--quality", arguments.quality, 100),
        ("--max-pixels", arguments.max_pixels, MOST_PIXELS),
        ("--num-threads", arguments.num_threads, _MOST_THREADS),
    ):
        if value is not None and not 1 <= value <= (most or value):
            raise UserError(
                f"{option}: {value} is not allowed; it must be " + (f"1 to {most}" if most else "1 or more")
            )
    if arguments.max_bad < 0:
        raise UserError(f"--max-bad: {arguments.max_bad} is not allowed; it must be 0 or more")
    if arguments.quality is not None and arguments.short_side is None:
        raise UserError(
            "--quality: only images that are reduced are written anew. Add --short-side, or remove --quality"
        )
    if arguments.no_decode and arguments.short_side is not None:
        raise UserError("--no-decode: --short-side decodes all images. Remove one of the two")
