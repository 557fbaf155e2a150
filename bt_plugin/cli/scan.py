"""`scan`: find the images of a data set that cannot be read."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bt_plugin.config.recipe_file import paths_in
from bt_plugin.config.yaml12 import parse_yaml
from bt_plugin.errors import FileError, UserError, file_error
from bt_plugin.runs.atomic_file import check_output, write_csv
from dali_pipelines.views.params import MOST_PIXELS

if TYPE_CHECKING:
    from dali_pipelines.sources import ImageSource


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("scan", help="decode every image of a data set, and list the good and the bad ones")
    parser.add_argument("data", help="images: a path or a list of paths, such as [A, B], as for data.train")
    parser.add_argument("-o", "--output", default="scan", help="folder for good.csv and bad.csv (default scan)")
    parser.add_argument("--num-threads", type=int, help="number of threads (default: number of cores)")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MOST_PIXELS,
        help=f"largest height times width, as data.max_pixels (default {MOST_PIXELS})",
    )
    parser.add_argument("--value-range", default="auto", help="as data.value_range (default auto)")
    parser.add_argument("--channels", help="as data.channels, such as [3, 2, 1] (default: all except alpha)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write OUTPUT/bad.csv with reasons and, if the images are files, OUTPUT/good.csv, which data.train accepts."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm.auto import tqdm

    from bt_plugin.data.value_range import said_of
    from dali_pipelines.decoding.read_pixels import why_unreadable
    from dali_pipelines.ranks import cores_per_rank

    output = Path(arguments.output)
    if arguments.num_threads is not None and not 1 <= arguments.num_threads <= 4096:
        raise UserError(f"--num-threads: {arguments.num_threads} is not allowed; it must be 1 to 4096")
    check_output(output / "good.csv", "--output")
    if (output / "good.csv").exists() or (output / "bad.csv").exists():
        raise UserError(f"--output: {output} already has the results of a scan. Name another folder")
    if not 1 <= arguments.max_pixels <= MOST_PIXELS:
        raise UserError(f"--max-pixels: {arguments.max_pixels} is not allowed; it must be 1 to {MOST_PIXELS}")
    source, deep = _opened(arguments)
    if said := said_of(deep):
        print(said)

    def reason(index: int) -> Exception | None:
        return why_unreadable(deep, index, arguments.max_pixels)

    threads = ThreadPoolExecutor(arguments.num_threads or cores_per_rank())
    try:
        scanned = threads.map(reason, range(len(source)))
        reasons = list(tqdm(scanned, total=len(source), desc="scan", unit="image"))
    finally:
        # After Ctrl-C the remaining images are not decoded.
        threads.shutdown(wait=False, cancel_futures=True)

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, output, "--output") from error
    bad = [
        (source.place(index), f"{type(reason).__name__}: {reason}") for index, reason in enumerate(reasons) if reason
    ]
    if source.kind == "files":
        _write_good(output / "good.csv", source, reasons)
    try:
        write_csv(output / "bad.csv", ("place", "reason"), bad)
    except FileError:
        # Half of a result would keep the next scan from writing here.
        (output / "good.csv").unlink(missing_ok=True)
        raise
    if source.kind == "files":
        print(f"{len(source) - len(bad)} good images: {output}/good.csv, for data.train")
    else:
        print(f"{len(source) - len(bad)} good images. They are not files, so there is no list of them")
    print(f"{len(bad)} bad ones: {output}/bad.csv")


def _opened(arguments: argparse.Namespace) -> tuple[ImageSource, ImageSource]:
    """Return the images as they are stored, and at full depth."""
    from dali_pipelines.depth.full_depth import full_depth
    from dali_pipelines.sources import open_source

    try:
        source = open_source(paths_in(arguments.data))
        value_range = parse_yaml(arguments.value_range)
        channels = parse_yaml(arguments.channels) if arguments.channels else None
        return source, full_depth(source, value_range=value_range, channels=channels, max_pixels=arguments.max_pixels)
    except ValueError as error:
        raise UserError(_with_option(str(error))) from error


def _with_option(message: str) -> str:
    """Begin the message with the option instead of the argument of full_depth."""
    options = {"value_range: ": "--value-range: ", "channels: ": "--channels: "}
    begin = next((begin for begin in options if message.startswith(begin)), "")
    return options.get(begin, "") + message.removeprefix(begin)


def _write_good(path: Path, source: ImageSource, reasons: list[Exception | None]) -> None:
    good = [index for index, reason in enumerate(reasons) if not reason]
    paths = [os.path.abspath(source.place(index)) for index in good]
    if source.has_labels:
        write_csv(path, ("path", "label"), zip(paths, (source.classes[source.labels[i]] for i in good)))
    else:
        write_csv(path, ("path",), zip(paths))
