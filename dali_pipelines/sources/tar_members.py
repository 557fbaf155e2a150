"""Find the images of tar files from their headers. Several processes read the headers of many files.

`python -m dali_pipelines.sources.tar_members` is one of these processes. It reads the shards as JSON from stdin, and
writes an index as .npz to stdout.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dali_pipelines.sources.index_cache import Index
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.tar_reader import read_members
from dali_pipelines.sources.tar_samples import Image, labelled_images

# Python's tarfile takes 0.5 s for the 20,000 members of a shard. Several threads take twice as long as one, so
# processes are used. On network storage they mostly wait, so they may be more than the cores.
_PROCESSES = 8
_SHARDS_OF_A_PROCESS = 4


# Keys of the packed texts of the index, each with the key of their ends.
_TEXTS = (("names", "ends"), ("labels", "label_ends"), ("left_out", "left_out_ends"))


def members_of(shards: Sequence[tuple[str, str]], suffixes: Sequence[str] = ()) -> Index:
    """Return the index of the images of shards.

    Args:
        shards: Path of each shard, and the prefix of its images' names.
        suffixes: Suffixes of images, as in `labelled_images`; empty is any.

    Returns:
        The arrays of the index by name.

        - names, ends: the images' names, packed as in Names.
        - labels, label_ends: the images' labels, packed as in Names. A label is empty if the image has none.
        - left_out, left_out_ends: the names of images that are links or other members without bytes, packed.
        - offsets, sizes: the position and the number of each image's bytes, (n,) int64.
        - counts: the number of images of each shard, (len(shards),) int64.

    Raises:
        ValueError: If a shard is not a whole, uncompressed tar file, or the label of an image is not clear.
    """
    processes = min(_PROCESSES, len(shards) // _SHARDS_OF_A_PROCESS)
    if processes < 2:
        return _read(shards, suffixes)
    size = -(-len(shards) // processes)
    parts = [shards[first : first + size] for first in range(0, len(shards), size)]
    started: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(processes) as threads:
        try:
            indexes = list(threads.map(lambda part: _read_in_a_process(part, suffixes, started), parts))
        finally:
            # After an error or a signal, the results of the other processes are not needed.
            for process in started:
                process.kill()
    joined = {key: np.concatenate([index[key] for index in indexes]) for key in indexes[0]}
    for block, ends in _TEXTS:
        begins = np.cumsum([0, *(len(index[block]) for index in indexes[:-1])])
        joined[ends] = np.concatenate([index[ends] + begin for index, begin in zip(indexes, begins)])
    return joined


def _read_in_a_process(
    shards: Sequence[tuple[str, str]], suffixes: Sequence[str], started: list[subprocess.Popen[bytes]]
) -> Index:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    command = [sys.executable, "-m", "dali_pipelines.sources.tar_members"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        started.append(process)
        output, errors = process.communicate(json.dumps([shards, suffixes]).encode())
    if process.returncode:
        reason = errors.decode(errors="replace").strip() or f"the reading process ended with {process.returncode}"
        raise ValueError(reason if process.returncode == 1 and errors else f"{shards[0][0]} or a later shard: {reason}")
    with np.load(io.BytesIO(output)) as index:
        return dict(index)


def _read(shards: Sequence[tuple[str, str]], suffixes: Sequence[str]) -> Index:
    images: list[tuple[str, list[Image]]] = []
    left_out: list[str] = []
    for shard, prefix in shards:
        members = read_members(shard)
        try:
            images.append((prefix, labelled_images(members, suffixes)))
        except ValueError as error:
            raise ValueError(f"{shard}: {error}") from error
        left_out += (f"{prefix}/{name}" for name in members.left_out)
    return packed(images, left_out)


def packed(images: Sequence[tuple[str, Sequence[Image]]], left_out: Iterable[str]) -> Index:
    """Return the index of images of shards, as members_of describes it.

    Args:
        images: Prefix of the names of each shard, and its images.
        left_out: Names of images that are links or other members without bytes.
    """
    names = Names.of(f"{prefix}/{image.name}" for prefix, of_shard in images for image in of_shard)
    labels = Names.of(image.label for _, of_shard in images for image in of_shard)
    others = Names.of(left_out)
    return {
        "names": names.block,
        "ends": names.ends,
        "labels": labels.block,
        "label_ends": labels.ends,
        "left_out": others.block,
        "left_out_ends": others.ends,
        "offsets": np.array([image.offset for _, of_shard in images for image in of_shard], dtype=np.int64),
        "sizes": np.array([image.size for _, of_shard in images for image in of_shard], dtype=np.int64),
        "counts": np.array([len(of_shard) for _, of_shard in images], dtype=np.int64),
    }


if __name__ == "__main__":
    try:
        found: dict[str, Any] = _read(*json.load(sys.stdin))
        np.savez(sys.stdout.buffer, **found)
    except ValueError as error:
        sys.exit(str(error))
