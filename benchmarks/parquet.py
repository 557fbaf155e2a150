"""Measure parquet files: the start with 1.28 million rows, and what each order of the images costs.

python benchmarks/parquet.py --parts start                          256 files with tiny images, cold and cached
python benchmarks/parquet.py --parts orders --data PATH             a folder of images, compared with row groups of 100

The second part writes the images of a folder several times, as files of a folder and as parquet files. They are more
than the decoded row groups that stay in memory. It measures the native backend at 224 px on the folder, on the parquet
files with all images shuffled, and with windows of several sizes. A round measures all one after the other, each in its
own process, and ratios to the folder are computed within a round. The time of the processor is measured too, because
other processes change it less. The system's cache of files is not cleared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from measure import in_a_process
from record import write_record
from start import start

FILES = 256
ROWS_PER_GROUP = 100
BATCH = 64
CACHE_GIB = 0.25
WINDOWS = (256, 1024, 4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["start", "orders"], choices=("start", "orders"))
    parser.add_argument("--entries", type=int, default=1_280_000, help="rows of the start")
    parser.add_argument("--data", type=Path, help="folder of images for the orders")
    parser.add_argument("--images", type=int, default=16_000, help="images that are written for the orders")
    parser.add_argument("--measured", type=int, default=1024, help="images of a measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", help="measure this in this process, and print the result as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        name, _, path = arguments.one.partition(":")
        measured = start(path) if name == "start" else throughput(name, path, arguments.measured)
        print(json.dumps(measured))
        return
    if "orders" in arguments.parts and arguments.data is None:
        parser.error("the part orders needs --data")
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
            results = measure_start(arguments, Path(folder)) if part == "start" else orders(arguments, Path(folder))
        print(write_record(f"parquet_{part}", results))


def measure_start(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 120, 200)).save(content, "JPEG")
    rows = arguments.entries // FILES
    names = [f"class {number}" for number in range(1000)]
    for number in range(FILES):
        labels = [(number * rows + row) * 1000 // arguments.entries for row in range(rows)]
        write(folder / f"train-{number:05}-of-{FILES:05}.parquet", [content.getvalue()] * rows, labels, names)
    time.sleep(2)  # the index of a source that has just changed is not kept
    results = {state: in_a_process("--one", f"start:{folder}/train-*.parquet") for state in ("cold", "again")}
    for state, measured in results.items():
        print(f"{state:>6}", *(f"{key} {value:.1f}" for key, value in measured.items()), sep="  ")
    return {"entries": arguments.entries, "files": FILES, "rows_per_group": ROWS_PER_GROUP, "results": results}


def orders(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sizes = write_images(arguments.data, arguments.images, folder)
    pattern = f"{folder}/parquet/*.parquet"
    contenders = {"folder": f"{folder}/images", "all": pattern, **{str(window): pattern for window in WINDOWS}}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(arguments.repeats):
        for name, path in contenders.items():
            rounds[name].append(in_a_process("--one", f"{name}:{path}"))
    results = {}
    for name, measured in rounds.items():
        pairs = list(zip(measured, rounds["folder"]))
        ratios = [one["images_per_s"] / other["images_per_s"] for one, other in pairs]
        of_cpu = [one["cpu_ms_per_image"] / other["cpu_ms_per_image"] for one, other in pairs]
        results[name] = {
            "ratio_to_folder": statistics.median(ratios),
            "cpu_ratio_to_folder": statistics.median(of_cpu),
            "ratios": ratios,
            "cpu_ratios": of_cpu,
            "rounds": measured,
        }
        print(
            f"{name:>7}  {statistics.median(ratios):.2f} of the folder's images/s",
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            f"{statistics.median(of_cpu):.2f} of its processor time",
            *(f"{key} {value:.2f}" for key, value in measured[-1].items()),
            sep="  ",
        )
    return {
        **sizes,
        "measured_images": arguments.measured,
        "cache_gib": CACHE_GIB,
        "decode_group_ms": decode_group_ms(pattern),
        "results": results,
    }


def throughput(name: str, path: str, images: int) -> dict[str, float]:
    """Return the images per second from the first to the last of a number of images, and the row groups decoded."""
    from dali_pipelines import Backend, TwoViewLoader, open_source, parquet_files
    from dali_pipelines.sources import parquet_source

    decoded = []
    decode = parquet_source.decode_group

    def counted(*arguments: Any) -> Any:
        decoded.append(arguments)
        return decode(*arguments)

    parquet_source.decode_group = counted  # type: ignore[assignment]
    source = open_source(path) if name == "folder" else parquet_files(path, cache_gib=CACHE_GIB)
    backend = Backend("native", device="cpu")
    # The first batches of a process compile the kernel.
    warm = TwoViewLoader(source, 4, backend=backend, rank=0, world_size=1, seed=1)
    list(islice(warm, 2))
    loader = TwoViewLoader(
        source, BATCH, backend=backend, rank=0, world_size=1, shuffle_window=int(name) if name.isdigit() else None
    )
    decoded.clear()
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    seen = sum(len(batch.filenames) for batch in islice(loader, images // BATCH))
    duration_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    return {
        "images_per_s": seen / duration_s,
        "cpu_ms_per_image": 1000 * cpu_s / seen,
        "row_groups_per_100_images": 100 * len(decoded) / seen,
    }


def decode_group_ms(pattern: str) -> float:
    """Return the median time in which one thread decodes a row group, in ms."""
    from dali_pipelines import parquet_files

    source = parquet_files(pattern, cache_gib=1e-6)
    assert source.groups is not None
    times_ms = []
    for first in source.groups[:40].tolist():
        begun_s = time.perf_counter()
        source.read(first)
        times_ms.append(1000 * (time.perf_counter() - begun_s))
    return statistics.median(times_ms)


def write_images(data: Path, count: int, folder: Path) -> dict[str, float]:
    """Write images as files of a folder and as parquet files, and return their number and size."""
    from dali_pipelines import open_source

    source = open_source(data)
    contents = [source.read(index).tobytes() for index in range(len(source))]
    for first in range(0, count, 10 * ROWS_PER_GROUP):
        images = [contents[number % len(contents)] for number in range(first, min(first + 10 * ROWS_PER_GROUP, count))]
        (folder / "images" / f"{first:06}").mkdir(parents=True)
        for number, image in enumerate(images):
            (folder / "images" / f"{first:06}" / f"{number:04}.jpg").write_bytes(image)
        write(folder / "parquet" / f"train-{first:06}.parquet", images, [0] * len(images), ["any"])
    n_bytes = sum(len(contents[number % len(contents)]) for number in range(count))
    return {"images": count, "mean_kib": n_bytes / count / 1024, "rows_per_group": ROWS_PER_GROUP}


def write(path: Path, images: list[bytes], labels: list[int], classes: list[str]) -> None:
    """Write a parquet file as the package datasets does."""
    import pyarrow as pa
    from pyarrow import parquet

    struct = pa.StructArray.from_arrays(
        [pa.array(images, pa.binary()), pa.array([f"{number}.jpg" for number in range(len(images))])], ["bytes", "path"]
    )
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": struct, "label": pa.array(labels, pa.int64())})
    parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=ROWS_PER_GROUP)


if __name__ == "__main__":
    main()
