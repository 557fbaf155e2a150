"""Measure images per second from a web server with latency, compared with the same shards in a folder.

python benchmarks/remote.py
python benchmarks/remote.py --latencies 20 --repeats 1 --seconds 5

nginx serves tar shards of photographs (500 x 375 px, as JPEG). It waits before each answer, by Lua, so that no proxy
copies the bytes again (apt-get install nginx-light libnginx-mod-http-lua). Server and loaders share the cores.

A repetition measures all contenders one after the other, each in its own process. Ratios are computed within a
repetition. cpu_ms is the processor time of an image in the loader's process, and server_cpu_ms that in nginx.

Two views of 224 px by the native backend, shuffled over all shards:

- local: the shards in a folder.
- remote: the shards behind the server, without a cache, so that each image is fetched each time.
- cached: the same with a cache that holds all images.
- fsspec: our loader, with fsspec's cat_file called when an image is needed, as a data set of one's own would.

Bytes of images alone, without decoding, one after the other:

- read-remote: our source, announced in a shuffled order as the loader does.
- read-fsspec: fsspec's cat_file in the same order.
- read-webdataset: webdataset's own reading of whole shards in their order, which fetches no image alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from loader import write_images
from measure import in_a_process
from numpy.typing import NDArray
from record import write_record

from dali_pipelines import PRESETS, Backend, TwoViewLoader, open_source
from dali_pipelines.sources import ImageSource, Storage, Upcoming

VIEWS = ("local", "remote", "cached", "fsspec")
READS = ("read-remote", "read-fsspec", "read-webdataset")
BATCH = 64
SHARDS = 8
# Of each photograph, so that a source has many more images than are announced ahead of their use.
COPIES = 6
PORT = 18431
# Where Debian keeps nginx's modules.
MODULES = Path("/usr/lib/nginx/modules")
_NGINX = """
load_module {modules}/ndk_http_module.so; load_module {modules}/ngx_http_lua_module.so;
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path {folder}/1;
proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
server {{ listen 127.0.0.1:{port}; root {root}; access_by_lua_block {{ ngx.sleep({delay_s}) }} }} }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latencies", nargs="+", type=float, default=[0, 20, 100], help="delays of a request, in ms")
    parser.add_argument("--contenders", nargs="+", default=VIEWS + READS, choices=VIEWS + READS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="least duration of a measurement, in s")
    parser.add_argument("--one", help="measure this contender in this process")
    parser.add_argument("--place", help="folder or URL of the shards, with --one")
    parser.add_argument("--cache", help="folder of the cache, with --one")
    parser.add_argument("--server", type=int, help="process number of nginx, with --one")
    arguments = parser.parse_args()
    if arguments.one:
        places = arguments.place, arguments.cache
        print(json.dumps(measured(arguments.one, *places, seconds=arguments.seconds, server=arguments.server)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/xdg"
        shards = write_shards(Path(folder))
        for latency_ms in arguments.latencies:
            with served(shards, Path(folder), latency_ms / 1000) as server:
                results.append({"latency_ms": latency_ms, **compare(Path(folder), server, arguments)})
            print_row(results[-1])
    print(write_record("remote", {"batch": BATCH, "results": results}))


def compare(folder: Path, server: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the images per second of each contender, and the processor times, in every repetition."""
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(arguments.repeats):
        for name in arguments.contenders:
            place = f"{folder}/shards" if name == "local" else f"http://127.0.0.1:{PORT}"
            options = ["--place", place, "--cache", f"{folder}/cache-{name}", "--server", str(server)]
            for key, value in in_a_process("--one", name, *options).items():
                found.setdefault(key, {}).setdefault(name, []).append(value)
    return found


def print_row(result: dict[str, Any]) -> None:
    rates = result["images_per_s"]
    columns = []
    for name, values in rates.items():
        peer = rates.get("read-remote" if name in READS else "local", values)
        ratios = [value / other for value, other in zip(values, peer)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        columns.append(f"{name} {statistics.median(values):.0f}/s x{statistics.median(ratios):.2f} ({spread})")
    print(f"{result['latency_ms']:>5} ms", *columns, sep="   ", flush=True)


def measured(name: str, place: str, cache: str, *, seconds: float, server: int) -> dict[str, float]:
    """Measure the images per second, after what fills the queues and, with a cache, the cache."""
    sizes = reads(name, place) if name in READS else views(name, place, cache)
    # The next epoch is planned before this one ends, so all images are in the cache a little later.
    ready = 4 * BATCH if name != "cached" else int(1.3 * len(open_source(shards_at(place), storage=Storage(cache))))
    while ready > 0:
        ready -= next(sizes)
    images, begun_s = 0, time.perf_counter()
    cpu, server_cpu = psutil.Process().cpu_times(), psutil.Process(server).cpu_times()
    while time.perf_counter() - begun_s < seconds:
        images += next(sizes)
    return {
        "images_per_s": images / (time.perf_counter() - begun_s),
        "cpu_ms": 1000 * used_s(psutil.Process(), cpu) / images,
        "server_cpu_ms": 1000 * used_s(psutil.Process(server), server_cpu) / images,
    }


def used_s(process: psutil.Process, before: Any) -> float:
    """Return the processor time that a process has used since its cpu_times were taken, in s."""
    now = process.cpu_times()
    return float(now.user + now.system - before.user - before.system)


def shards_at(place: str) -> str:
    return f"{place}/s-{{0..{SHARDS - 1}}}.tar"


def views(name: str, place: str, cache: str) -> Iterator[int]:
    """Yield the number of images of each batch of views."""
    source = open_source(shards_at(place), storage=Storage(cache, 10.0 if name == "cached" else 0))
    if name == "fsspec":
        source = Plain(source)
    backend = Backend("native", device="cpu", num_threads=len(os.sched_getaffinity(0)))
    loader = TwoViewLoader(source, BATCH, PRESETS["barlow_twins"], backend=backend)
    return (len(batch.filenames) for batch in chain.from_iterable(repeat(loader)))


class Plain(ImageSource):
    """A source that calls fsspec for each image when it is needed.

    Args:
        source: Remote shards.
    """

    kind = "encoded"

    def __init__(self, source: ImageSource) -> None:
        import fsspec

        super().__init__(source.names, source.labels, source.classes)
        self._source: Any = source
        self._files = fsspec.filesystem("http")

    def read(self, index: int) -> NDArray[np.uint8]:
        wanted = self._source.range_of(index)
        content = self._files.cat_file(wanted.url, wanted.start, wanted.start + wanted.size)
        return np.frombuffer(content, dtype=np.uint8)

    def place(self, index: int) -> str:
        return self._source.place(index)


def reads(name: str, place: str) -> Iterator[int]:
    """Yield the number of images of each batch of bytes."""
    if name == "read-webdataset":
        import webdataset

        for _ in count():
            for sample in webdataset.WebDataset(shards_at(place), shardshuffle=False):
                assert sample["jpg"]
                yield 1
    source = open_source(shards_at(place), storage=Storage(cache_gib=0))
    source = Plain(source) if name == "read-fsspec" else source
    ahead = -(-source.reads_ahead // BATCH)
    batches = (order[first : first + BATCH] for order in orders(len(source)) for first in range(0, len(order), BATCH))
    waiting: list[NDArray[np.int64]] = []
    for number, batch in enumerate(batches):
        waiting.append(batch)
        if source.reads_ahead:
            source.announce(
                Upcoming(batch, batch, number * BATCH, number * BATCH + len(source) + np.arange(len(batch)))
            )
        if len(waiting) > ahead:
            for index in waiting.pop(0).tolist():
                assert len(source.read(index))
            yield len(batch)


def orders(n_images: int) -> Iterator[NDArray[np.int64]]:
    random = np.random.default_rng(0)
    while True:
        yield random.permutation(n_images)


def write_shards(folder: Path) -> Path:
    """Write the shards into a folder, and return it."""
    images = sorted((write_images(None, "500x375", folder) / "images").iterdir())
    (folder / "shards").mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / "shards" / f"s-{shard}.tar", "w") as file:
            for copy in range(COPIES):
                for image in images[shard::SHARDS]:
                    file.add(image, f"{copy}_{image.name}")
    return folder / "shards"


@contextmanager
def served(root: Path, folder: Path, delay_s: float) -> Iterator[int]:
    """Serve a folder by nginx, with a delay of each answer in s, and yield the server's process number."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or not (MODULES / "ngx_http_lua_module.so").exists():
        raise SystemExit("nginx or its Lua is not installed; apt-get install nginx-light libnginx-mod-http-lua")
    conf = _NGINX.format(folder=folder, root=root, port=PORT, modules=MODULES, delay_s=delay_s)
    (folder / "conf").write_text(conf)
    with subprocess.Popen([program, "-c", f"{folder}/conf", "-p", folder, "-e", f"{folder}/error.log"]) as server:
        try:
            time.sleep(0.5)
            yield server.pid
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
