"""Measure the two-view images per second of every loader, and compare them with Lightly's.

python benchmarks/loader.py                                   photographs, written as JPEGs of several sizes
python benchmarks/loader.py --data PATH --sizes as-is         your own folder
python benchmarks/loader.py --stages                          the time of each stage of the native backend

Lightly's loader is a DataLoader with BYOLTransform at bicubic interpolation. Each measurement runs in its own process.
A repetition measures all loaders one after the other, and ratios are computed within a repetition. Every loader uses
all cores: ours with threads, a DataLoader with worker processes. The views have 224 px, or the images' shorter side if
that is less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from measure import in_a_process
from PIL import Image
from record import write_record

from dali_pipelines import PRESETS, Backend, Preset, TwoViewLoader, open_source

LOADERS = ("native", "dali", "lightly", "transform")
# The same loaders with the hue step in YIQ.
IN_YIQ = ("native-yiq", "dali-yiq")
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of images; default: photographs of scikit-image")
    parser.add_argument("--sizes", nargs="+", default=["500x375", "1000x750", "96x96"], help="WxH in px, or as-is")
    parser.add_argument("--loaders", nargs="+", default=LOADERS, choices=LOADERS + IN_YIQ)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="least duration of a measurement, in s")
    parser.add_argument("--busy", action="store_true", help="hold the interpreter's lock half of the time in a thread")
    parser.add_argument("--stages", action="store_true", help="time the stages of the native backend instead")
    parser.add_argument("--one", choices=LOADERS + IN_YIQ, help="measure this loader on --data in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(throughput(arguments.one, arguments.data, arguments.seconds, arguments.busy)))
        return
    results = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            data = arguments.data if size == "as-is" else write_images(arguments.data, size, Path(folder))
            if arguments.stages:
                results.append({"size": size, "ms_a_sample": stages(data)})
                print(size, *(f"{name} {ms:.2f} ms" for name, ms in results[-1]["ms_a_sample"].items()), sep="   ")
            else:
                results.append({"size": size, **compare(data, arguments)})
                print_row(results[-1])
    name = "loader_stages" if arguments.stages else "loader_busy" if arguments.busy else "loader"
    print(write_record(name, {"batch": BATCH, "results": results}))


def compare(data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the images per second of each loader, in every repetition."""
    rates: dict[str, list[float]] = {name: [] for name in arguments.loaders}
    for _ in range(arguments.repeats):
        for name in arguments.loaders:
            rates[name].append(in_a_process("--one", name, "--data", str(data))["images_per_s"])
    return {"images_per_s": rates}


def print_row(result: dict[str, Any]) -> None:
    rates = result["images_per_s"]
    columns = []
    for name, values in rates.items():
        ratios = [value / peer for value, peer in zip(values, rates.get("lightly", values))]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        columns.append(f"{name} {statistics.median(values):.0f}/s x{statistics.median(ratios):.2f} ({spread})")
    print(f"{result['size']:>9}", *columns, sep="   ", flush=True)


def throughput(name: str, data: Path, seconds: float, busy: bool) -> dict[str, float]:
    """Measure the images per second after the first four batches, whose caches are cold and whose queues fill."""
    batches = iter(open_loader(name, data, preset_for(data)))
    for _ in range(4):
        next(batches)
    if busy:
        threading.Thread(target=hold_the_lock, daemon=True).start()
    images, begun_s = 0, time.perf_counter()
    while time.perf_counter() - begun_s < seconds:
        next(batches)
        images += BATCH
    return {"images_per_s": images / (time.perf_counter() - begun_s)}


def open_loader(name: str, data: Path, preset: Preset) -> Iterable[Any]:
    cores = len(os.sched_getaffinity(0))
    path, _, in_yiq = name.partition("-")
    if path in ("native", "dali"):
        preset = preset.changed(hue_space="yiq") if in_yiq else preset
        loader = TwoViewLoader(data, BATCH, preset, backend=Backend(path, device="cpu", num_threads=cores))  # type: ignore[arg-type]
        return chain.from_iterable(repeat(loader))
    from lightly.data import LightlyDataset
    from torch.utils.data import DataLoader

    from bt_plugin import BarlowTwinsTransform

    transform = BarlowTwinsTransform(preset) if name == "transform" else lightlys_transform(preset)
    dataset = LightlyDataset(str(data), transform=transform)
    workers = DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=cores, persistent_workers=True)
    return chain.from_iterable(repeat(workers))


def lightlys_transform(preset: Preset) -> Callable[[Image.Image], Any]:
    """Return Lightly's BYOLTransform with our bicubic interpolation instead of its bilinear one."""
    from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform
    from torchvision.transforms import InterpolationMode

    views = []
    for view, params in zip((BYOLView1Transform, BYOLView2Transform), preset.views):
        one = view(input_size=params.size_px)
        # The class is of torchvision's transforms v1 or v2, depending on what Lightly imported.
        (crop,) = (step for step in one.transform.transforms if type(step).__name__ == "RandomResizedCrop")
        crop.interpolation = InterpolationMode.BICUBIC
        views.append(one)
    return BYOLTransform(*views)


def hold_the_lock() -> None:
    """Hold the interpreter's lock for 10 ms and release it for 10 ms, again and again, like a training loop."""
    while True:
        until_s = time.perf_counter() + 0.01
        while time.perf_counter() < until_s:
            pass
        time.sleep(0.01)


def stages(data: Path) -> dict[str, float]:
    """Return the milliseconds per stage of one thread, for a sample with two views: medians over passes."""
    from dali_pipelines.native import stream as native
    from dali_pipelines.plans import Plan
    from dali_pipelines.views.draws import draw_views
    from dali_pipelines.views.params import MOST_PIXELS

    torch.set_num_threads(1)
    source, preset = open_source(data), preset_for(data)
    n = min(128, len(source))
    draws = draw_views(preset.views, n, 0, 0, 0)
    plan = Plan(torch.arange(n).numpy(), draws)
    makers = [native.random_view(view, number) for number, view in enumerate(preset.views)]
    outs = [torch.empty(maker.shape).numpy() for maker in makers]
    spent: dict[str, list[float]] = {"read and decode": [], "view a": [], "view b": []}
    for _ in range(5):
        sums = dict.fromkeys(spent, 0.0)
        for row in range(n):
            marks = [time.perf_counter()]
            pixels = native.read_pixels(source, row, MOST_PIXELS)
            marks.append(time.perf_counter())
            for maker, out in zip(makers, outs):
                maker.write(pixels, plan, row, out)
                marks.append(time.perf_counter())
            for name, begun, ended in zip(sums, marks, marks[1:]):
                sums[name] += ended - begun
        for name, total in sums.items():
            spent[name].append(1000 * total / n)
    return {name: statistics.median(values[1:]) for name, values in spent.items()}


def preset_for(data: Path) -> Preset:
    source = open_source(data)
    with Image.open(source.place(0)) as image:
        return PRESETS["barlow_twins"].changed(size_px=min(224, *image.size))


def write_images(data: Path | None, size: str, folder: Path) -> Path:
    """Write 640 JPEGs of one size, crops of photographs at quality 90, and return their folder."""
    width, height = map(int, size.split("x"))
    if data is None:
        from skimage import data as photographs

        names = ("astronaut", "chelsea", "coffee", "rocket")
        pictures = [Image.fromarray(getattr(photographs, name)()) for name in names]
    else:
        source = open_source(data)
        pictures = [Image.open(source.place(index)).convert("RGB") for index in range(min(160, len(source)))]
    generator = torch.Generator().manual_seed(0)
    (folder / "images").mkdir()
    for number in range(640):
        picture = pictures[number % len(pictures)]
        scale, left, top = (0.5 + torch.rand(3, generator=generator) / 2).tolist()
        box = (0, 0, scale * picture.width, scale * picture.height)
        x, y = (left - 0.5) * 2 * (picture.width - box[2]), (top - 0.5) * 2 * (picture.height - box[3])
        crop = picture.resize((width, height), Image.Resampling.BICUBIC, (x, y, x + box[2], y + box[3]))
        crop.save(folder / "images" / f"{number:03}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
