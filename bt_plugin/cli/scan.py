"""`scan`: which images of a data set can be read."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from bt_plugin.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("scan", help="decode every image of a data set, and list the good and the bad ones")
    parser.add_argument("data", help="a folder of images, or a list of them")
    parser.add_argument("-o", "--output", default="scan", help="folder for good.csv and bad.csv (default scan)")
    parser.add_argument("--num-threads", type=int, help="default: the cores")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes OUTPUT/good.csv, which data.train takes, and OUTPUT/bad.csv with the reasons."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm.auto import tqdm

    from dali_pipelines.backends import cores_per_rank
    from dali_pipelines.decoding import why_unreadable
    from dali_pipelines.sources import open_source

    output = Path(arguments.output)
    if (output / "good.csv").exists() or (output / "bad.csv").exists():
        raise UserError(f"--output: {output} has the results of a scan already; name another folder")
    try:
        source = open_source(arguments.data)
    except ValueError as error:
        raise UserError(str(error)) from error
    paths = [source.path(index) for index in range(len(source))]
    with ThreadPoolExecutor(arguments.num_threads or cores_per_rank()) as threads:
        reasons = list(tqdm(threads.map(why_unreadable, paths), total=len(paths), desc="scan", unit="image"))

    output.mkdir(parents=True, exist_ok=True)
    labels = [source.classes[label] if source.has_labels else "" for label in source.labels]
    good, bad = [], []
    for path, label, reason in zip(paths, labels, reasons):
        absolute = str(Path(path).resolve())
        if reason:
            bad.append((absolute, f"{type(reason).__name__}: {reason}"))
        else:
            good.append((absolute, label) if source.has_labels else (absolute,))
    for name, header, rows in (
        ("good", ("path", "label") if source.has_labels else ("path",), good),
        ("bad", ("path", "reason"), bad),
    ):
        with open(output / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    print(f"{len(good)} good images: {output}/good.csv, for data.train")
    print(f"{len(bad)} bad ones: {output}/bad.csv")
