"""What lies where in tar files: their headers, read by several processes where there are many.

python -m dali_pipelines.sources.tar_members is one of them: shards in as JSON, an index out as .npz.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from dali_pipelines.sources.files import IMAGE_SUFFIXES
from dali_pipelines.sources.index_cache import Index
from dali_pipelines.sources.names import Names

# Python's tarfile takes 0.5 s for the 20,000 members of a shard, and in threads twice as long as in one. On network
# storage the processes wait.
_PROCESSES = 8
_SHARDS_OF_A_PROCESS = 4


class _Image(NamedTuple):
    name: str
    label: str
    offset: int
    size: int


def members_of(shards: Sequence[tuple[str, str]]) -> Index:
    """Where the images of shards are.

    Args:
        shards: Path, and the prefix of its images' names, of each.

    Returns:
        names and ends, labels and label_ends: as Names takes them; a label is empty where there is none.
        offsets, sizes: (n,) int64, bytes. counts: (len(shards),) int64, images of each shard.

    Raises:
        ValueError: If one is no plain tar file.
    """
    processes = min(_PROCESSES, len(shards) // _SHARDS_OF_A_PROCESS)
    if processes < 2:
        return _read(shards)
    size = -(-len(shards) // processes)
    parts = [shards[first : first + size] for first in range(0, len(shards), size)]
    with ThreadPoolExecutor(processes) as threads:
        indexes = list(threads.map(_read_in_a_process, parts))
    joined = {key: np.concatenate([index[key] for index in indexes]) for key in indexes[0]}
    for block, ends in (("names", "ends"), ("labels", "label_ends")):
        begins = np.cumsum([0, *(len(index[block]) for index in indexes[:-1])])
        joined[ends] = np.concatenate([index[ends] + begin for index, begin in zip(indexes, begins)])
    return joined


def _read_in_a_process(shards: Sequence[tuple[str, str]]) -> Index:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    command = [sys.executable, "-m", "dali_pipelines.sources.tar_members"]
    result = subprocess.run(command, input=json.dumps(shards).encode(), capture_output=True, env=environment)
    if result.returncode:
        raise ValueError(result.stderr.decode().strip())
    with np.load(io.BytesIO(result.stdout)) as index:
        return dict(index)


def _read(shards: Sequence[tuple[str, str]]) -> Index:
    images = [(prefix, _images_in(shard)) for shard, prefix in shards]
    names = Names.of(f"{prefix}/{image.name}" for prefix, of_shard in images for image in of_shard)
    labels = Names.of(image.label for _, of_shard in images for image in of_shard)
    return {
        "names": names.block,
        "ends": names.ends,
        "labels": labels.block,
        "label_ends": labels.ends,
        "offsets": np.array([image.offset for _, of_shard in images for image in of_shard], dtype=np.int64),
        "sizes": np.array([image.size for _, of_shard in images for image in of_shard], dtype=np.int64),
        "counts": np.array([len(of_shard) for _, of_shard in images], dtype=np.int64),
    }


def _images_in(shard: str) -> list[_Image]:
    found: list[tuple[str, int, int]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as file:
            for member in file:
                # It keeps every member that it has seen.
                file.members.clear()  # type: ignore[attr-defined]
                if not member.isreg():
                    continue
                name = member.name.removeprefix("./")
                if name.lower().endswith(IMAGE_SUFFIXES):
                    found.append((name, member.offset_data, member.size))
                elif name.endswith(".cls"):
                    content = file.extractfile(member)
                    assert content is not None, "a regular member has content"
                    labels[_key(name)] = content.read().decode().strip()
    except (tarfile.TarError, UnicodeDecodeError, OSError) as error:
        raise ValueError(
            f"{shard}: {type(error).__name__}: {error}; a shard must be a whole, uncompressed tar file"
        ) from error
    return [_Image(name, labels.get(_key(name), ""), offset, size) for name, offset, size in found]


def _key(name: str) -> str:
    """The member's name up to the first dot after its folders, which is what WebDataset groups by."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


if __name__ == "__main__":
    try:
        found: dict[str, Any] = _read(json.load(sys.stdin))
        np.savez(sys.stdout.buffer, **found)
    except ValueError as error:
        sys.exit(str(error))
