"""Measure the time from a rank's start to its first batch of 1.28 million images, and its memory.

python benchmarks/start.py                      a file list, a folder of 1000 classes, and tar shards
python benchmarks/start.py --entries 10000      smaller

The images are those of the demo data, repeated many times. They are linked into the folder, and copied into the shards
(5 GB). A cold start has no index of ours, but the system's cache of files is not cleared. Each measurement runs in its
own process.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from measure import in_a_process, process_bytes
from record import write_record

SHARDS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_280_000)
    parser.add_argument("--demo-data", type=Path, default=Path("data/demo/train"))
    parser.add_argument("--sources", nargs="+", default=list(WRITERS), choices=WRITERS)
    parser.add_argument("--one", help="measure this source in this process, and print the result as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(start(arguments.one)))
        return
    images = [file.resolve() for file in sorted(arguments.demo_data.rglob("*.jpg"))]
    results: dict[str, Any] = {}
    for name in arguments.sources:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
            source = WRITERS[name](images, arguments.entries, Path(folder) / "data")
            time.sleep(2)  # the index of a source that has just changed is not kept
            results[name] = {state: in_a_process("--one", source) for state in ("cold", "again")}
            for state, measured in results[name].items():
                print(f"{name:>7} {state:>6}", *(f"{key} {value:.1f}" for key, value in measured.items()), sep="  ")
    print(write_record("start", {"entries": arguments.entries, "results": results}))


def start(source: str) -> dict[str, float]:
    """Return the seconds of each part of the start, and the peak memory of the process."""
    from dali_pipelines import PRESETS, TwoViewLoader

    imports_s = age_s()
    views = PRESETS["barlow_twins"].changed(size_px=32)
    loader = TwoViewLoader(source, 64, views, rank=0, world_size=8)
    opened_s = age_s()
    assert len(next(iter(loader)).filenames) == 64
    first_batch_s = age_s()
    loader.state_dict()
    return {
        "imports_s": imports_s,
        "open_s": opened_s - imports_s,
        "first_batch_s": first_batch_s - opened_s,
        "start_s": first_batch_s,
        "state_s": age_s() - first_batch_s,
        "peak_mib": process_bytes("VmHWM") / 2**20,
    }


def age_s() -> float:
    """Return the seconds since the process started, from field 22 of proc(5)'s stat.

    The name in parentheses is field 2, so the first field after it is field 3.
    """
    began = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[22 - 3]
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(began) / os.sysconf("SC_CLK_TCK")


def classes_of(images: list[Path], entries: int) -> Iterator[tuple[int, int, Path]]:
    """Yield (class, number, image) of every entry, spread over a thousand classes."""
    for number in range(entries):
        yield number * 1000 // entries, number, images[number % len(images)]


def write_list(images: list[Path], entries: int, folder: Path) -> str:
    folder.mkdir()
    with open(folder / "list.csv", "w", newline="") as file:
        rows = ((image, label) for label, _, image in classes_of(images, entries))
        csv.writer(file).writerows([("path", "label"), *rows])
    return str(folder / "list.csv")


def write_folder(images: list[Path], entries: int, folder: Path) -> str:
    for label, number, image in classes_of(images, entries):
        name = folder / f"n{label:08}" / f"n{label:08}_{number}.jpg"
        if not number or label != (number - 1) * 1000 // entries:
            name.parent.mkdir(parents=True)
        os.link(image, name)
    return str(folder)


def write_shards(images: list[Path], entries: int, folder: Path) -> str:
    folder.mkdir()
    contents = {image: image.read_bytes() for image in images}
    remaining = classes_of(images, entries)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"train-{shard:04}.tar", "w") as file:
            for label, number, image in islice(remaining, -(-entries // SHARDS)):
                for suffix, content in (("jpg", contents[image]), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:08}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
                file.members.clear()  # type: ignore[attr-defined]
    return f"{folder}/train-*.tar"


WRITERS: dict[str, Callable[[list[Path], int, Path], str]] = {
    "list": write_list,
    "folder": write_folder,
    "shards": write_shards,
}


if __name__ == "__main__":
    main()
