"""Measure `pack`: images/s for copying and for reducing, by threads and by processes, and what JPEG loses.

python benchmarks/pack.py --images 600 --repeats 3

The images are photographs of 500 x 375 px. They are in the memory of this machine, so the numbers are those of the work
itself, not of a disk.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from record import write_record
from skimage import data
from sklearn.datasets import load_sample_image

from bt_plugin.tools.pack import pack
from bt_plugin.tools.packed_image import Conversion, packed_image
from bt_plugin.tools.packed_shard import ShardWriter
from dali_pipelines.sources import FileSource, open_source

SIZE_PX = (500, 375)
SHORT_PX = 256
CONVERSIONS = {
    "copy without decoding": Conversion(decodes=False),
    "copy": Conversion(),
    "reduce to 256 px": Conversion(short_side_px=SHORT_PX),
}


def write_images(folder: Path, count: int) -> None:
    arrays = [data.astronaut(), data.coffee(), load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    files = []
    for number, array in enumerate(arrays):
        files.append(folder.parent / f"{number}.jpg")
        Image.fromarray(array).resize(SIZE_PX, Image.Resampling.LANCZOS).save(files[-1], quality=92)
    for number in range(count):
        (folder / str(number % 10)).mkdir(parents=True, exist_ok=True)
        shutil.copy(files[number % len(files)], folder / str(number % 10) / f"{number:06}.jpg")


def by_threads(source: FileSource, out: Path, conversion: Conversion, workers: int) -> None:
    pack(source, out, shards=4, conversion=conversion, num_threads=workers, max_bad=0)


def by_processes(source: FileSource, out: Path, conversion: Conversion, workers: int) -> None:
    """Read and convert in processes. One process writes and verifies the shard, as with threads."""
    out.mkdir()
    writer = ShardWriter(out / "shard.tar")
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as processes:
        convert = partial(packed_image, source, conversion=conversion)
        for position, image in enumerate(processes.map(convert, range(len(source)), chunksize=16)):
            assert not isinstance(image, str), image
            writer.add(position, image, int(source.labels[position]))
    writer.close()
    writer.verify()


def jpeg_qualities() -> dict[str, dict[str, float]]:
    """Return bytes and PSNR of four reduced photographs, by quality and color subsampling."""
    arrays = [data.astronaut(), data.coffee(), load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    found = {}
    for quality, subsampling in ((95, "4:4:4"), (95, "4:2:0"), (90, "4:4:4"), (90, "4:2:0")):
        size_bytes, errors = 0, []
        for array in arrays:
            image = Image.fromarray(array)
            image = image.resize([SHORT_PX * side // min(image.size) for side in image.size], Image.Resampling.BICUBIC)
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality, subsampling=subsampling)
            size_bytes += file.tell()
            errors.append(np.mean((np.asarray(Image.open(file), dtype=float) - np.asarray(image)) ** 2))
        psnr_db = round(10 * math.log10(255**2 / float(np.mean(errors))), 1)
        found[f"quality {quality}, {subsampling}"] = {"bytes": size_bytes, "psnr_db": psnr_db}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    ways: list[tuple[str, Callable[..., None], int]] = [("threads", by_threads, count) for count in (1, 2, 4, 16)]
    ways += [("processes", by_processes, count) for count in (1, 2, 4)]
    rates: dict[str, dict[str, list[float]]] = {name: {} for name in CONVERSIONS}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        root = Path(name)
        write_images(root / "images", arguments.images)
        source = open_source(root / "images")
        assert isinstance(source, FileSource)
        for _ in range(arguments.repeats):
            for title, conversion in CONVERSIONS.items():
                for kind, way, workers in ways:
                    begun_s = time.perf_counter()
                    way(source, root / "out", conversion, workers)
                    rate = len(source) / (time.perf_counter() - begun_s)
                    rates[title].setdefault(f"{workers} {kind}", []).append(rate)
                    shutil.rmtree(root / "out")
    medians = {title: {way: round(statistics.median(each)) for way, each in of.items()} for title, of in rates.items()}
    for title, of in medians.items():
        print(f"{title}: " + ", ".join(f"{way} {rate} images/s" for way, rate in of.items()))
    jpeg = jpeg_qualities()
    for title, values in jpeg.items():
        print(f"{title}: {values['bytes']} bytes, {values['psnr_db']} dB")
    write_record(
        "pack", {"images": arguments.images, "size_px": SIZE_PX, "images_per_s": medians, "all": rates, "jpeg": jpeg}
    )


if __name__ == "__main__":
    main()
