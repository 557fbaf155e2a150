"""Pack the images of any source into tar shards, in WebDataset's layout, once and for all readers."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from tqdm.auto import tqdm

from bt_plugin.errors import UserError, file_error
from bt_plugin.tools.pack_folder import KEY, PackFolder
from bt_plugin.tools.packed_image import Conversion, PackedImage, packed_image
from bt_plugin.tools.packed_shard import ShardWriter
from dali_pipelines.depth.readers import is_eight_bits
from dali_pipelines.errors import StorageError
from dali_pipelines.plans import announced
from dali_pipelines.sources import ImageSource, Upcoming

_VERSION = 1
# Images that are announced to the source together.
_IMAGES_PER_STEP = 64
_SAMPLED_FILES = 1000
# A header and padding for an image and for its label.
_BYTES_PER_IMAGE = 4 * 512
# The sizes of the sampled files tell the size of all only roughly.
_SURELY = 0.9
_NEVER = np.iinfo(np.int64).max


class Packed(NamedTuple):
    """The result of `pack`.

    Args:
        images: Number of images in the shards.
        left_out: Number of images that cannot be read, and are listed in bad.csv.
        new_shards: Number of shards that were written now, not by an earlier run.
    """

    images: int
    left_out: int
    new_shards: int


def pack(
    source: ImageSource,
    output: Path,
    *,
    shards: int,
    conversion: Conversion,
    num_threads: int,
    max_bad: int,
) -> Packed:
    """Write the images of a source into tar shards, or resume doing so.

    Several threads read and convert images. They are written in the source's order, so the bytes do not depend on the
    number of threads. Each shard is verified, and gets its name when it is complete. A run that was interrupted at any
    point is resumed by the same call.

    Args:
        source: The images.
        output: Folder of the shards.
        shards: Number of shards, 1 to the number of images.
        conversion: What is done with each image.
        num_threads: Number of threads that read and convert images, 1 or more.
        max_bad: Largest number of images that may be left out because they cannot be read.

    Raises:
        UserError: If the images cannot be stored in shards, the folder has other files or was begun in another way, or
            more than max_bad images cannot be read.
        FileError: If a file cannot be written, or is not what was written.
        StorageError: If the storage of the source does not answer. The same call resumes.
    """
    _check_source(source, shards)
    _check_reduction(source, conversion)
    folder = PackFolder(output, shards, _state(source, shards, conversion), source.classes)
    try:
        records = [folder.record(shard) for shard in range(shards)]
        missing = [shard for shard, record in enumerate(records) if record is None]
        done = [record for record in records if record is not None]
        bounds = [shard * len(source) // shards for shard in range(shards + 1)]
        _check_space(source, output, sum(bounds[shard + 1] - bounds[shard] for shard in missing), conversion)
        work = _Work(source, folder, bounds, conversion, max_bad)
        work.left_out = sum(len(record.left_out) for record in done)
        work.run(missing, num_threads)
        if missing or not folder.has_tables():
            folder.write_tables(source)
    finally:
        folder.close()
    return Packed(len(source) - work.left_out, work.left_out, len(missing))


class _Work:
    """The packing of the shards that are missing.

    Args:
        source: The images.
        folder: Folder of the shards.
        bounds: Position of the first image of each shard, and the number of all images.
        conversion: What is done with each image.
        max_bad: Largest number of images that may be left out.
    """

    def __init__(
        self, source: ImageSource, folder: PackFolder, bounds: Sequence[int], conversion: Conversion, max_bad: int
    ) -> None:
        self._source = source
        self._folder = folder
        self._bounds = bounds
        self._conversion = conversion
        self._max_bad = max_bad
        self.left_out = 0

    def run(self, shards: Sequence[int], num_threads: int) -> None:
        """Write shards. While one is verified, the images of the next one are read."""
        positions = np.concatenate(
            [np.empty(0, dtype=np.int64), *(np.arange(*self._bounds[shard : shard + 2]) for shard in shards)]
        )
        readers = ThreadPoolExecutor(num_threads, "pack")
        verifier = ThreadPoolExecutor(1, "verify")
        verified: Future[None] | None = None
        total = len(self._source)
        bar = tqdm(total=total, initial=total - len(positions), desc="pack", unit="image")
        try:
            images = self._in_order(readers, positions, ahead=2 * num_threads)
            for shard in shards:
                writer, left_out = self._written(shard, images, bar)
                if verified is not None:
                    _wait_for(verified, writer)
                verified = verifier.submit(self._folder.publish, shard, writer, left_out)
            if verified is not None:
                verified.result()
        finally:
            # After Ctrl-C no more images are read. A shard that is complete is still verified.
            readers.shutdown(wait=False, cancel_futures=True)
            verifier.shutdown()
            bar.close()

    def _written(
        self, shard: int, images: Iterator[PackedImage | str], bar: tqdm[Any]
    ) -> tuple[ShardWriter, list[tuple[str, str]]]:
        """Write the images of a shard to its temporary file. Return the writer, and what was left out."""
        left_out: list[tuple[str, str]] = []
        has_labels = self._source.has_labels
        try:
            writer = ShardWriter(self._folder.partial(shard))
            try:
                for position in range(*self._bounds[shard : shard + 2]):
                    image = next(images)
                    bar.update()
                    if isinstance(image, str):
                        left_out.append((self._source.place(position), image))
                        self._count(*left_out[-1])
                    else:
                        writer.add(position, image, int(self._source.labels[position]) if has_labels else None)
            except BaseException:
                writer.abandon()
                raise
        except OSError as error:
            raise file_error(error, self._folder.tar(shard), KEY) from error
        if not len(writer):
            writer.abandon()
            raise UserError(
                f"SOURCE: none of the {len(left_out)} images of {self._folder.tar(shard).name} can be read, such as"
                f" {left_out[0][0]}: {left_out[0][1]}. Repair them and rerun the same command, or pack fewer shards"
                " into a new folder"
            )
        return writer, left_out

    def _count(self, place: str, reason: str) -> None:
        self.left_out += 1
        if self.left_out > self._max_bad:
            raise UserError(
                f"{place}: {reason}. Now {self.left_out} of {len(self._source)} images cannot be read, and --max-bad is"
                f" {self._max_bad}. Repair them, or raise --max-bad, then rerun the same command"
            )

    def _in_order(
        self, readers: ThreadPoolExecutor, positions: NDArray[np.int64], ahead: int
    ) -> Iterator[PackedImage | str]:
        """Yield the converted images in order. At most `ahead` of them are in memory."""
        waiting: deque[Future[PackedImage | str]] = deque()
        for position in _announced(self._source, positions):
            waiting.append(readers.submit(packed_image, self._source, position, self._conversion))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _wait_for(verified: Future[None], writer: ShardWriter) -> None:
    """Wait until a shard is verified. If that fails, give up the shard that was written meanwhile."""
    try:
        verified.result()
    except BaseException:
        writer.abandon()
        raise


def _announced(source: ImageSource, positions: NDArray[np.int64]) -> Iterator[int]:
    """Yield the positions in order, each after the source has learned what follows it."""

    def upcoming(first: int) -> Upcoming:
        images = positions[first : first + _IMAGES_PER_STEP]
        return Upcoming(images, images, first_use=first, next_use=np.full(len(images), _NEVER))

    steps = range(0, len(positions), _IMAGES_PER_STEP)
    for first in announced(source, steps, upcoming, images_per_step=_IMAGES_PER_STEP):
        yield from positions[first : first + _IMAGES_PER_STEP].tolist()


def _state(source: ImageSource, shards: int, conversion: Conversion) -> dict[str, Any]:
    """Return what the bytes of the shards depend on, by the words of messages."""
    encodes = conversion.short_side_px is not None or source.kind == "pixels"
    return {
        "the version of this format": _VERSION,
        "the fingerprint of SOURCE": source.fingerprint,
        "the number of images": len(source),
        "--shards": shards,
        "--short-side": conversion.short_side_px,
        "--quality": conversion.quality if conversion.short_side_px is not None else None,
        "--no-decode": not conversion.decodes,
        "--max-pixels": conversion.max_pixels,
        # Another version may encode the same pixels to other bytes.
        "the version of Pillow": PIL.__version__ if encodes else None,
    }


def _check_source(source: ImageSource, shards: int) -> None:
    if not 1 <= shards <= len(source):
        raise UserError(f"--shards: {shards} is not allowed; it must be 1 to {len(source)}, the number of images")
    if source.channels != 3:
        raise UserError(
            f"SOURCE: its images have {source.channels} channels, and the images of shards have three. Train from the"
            " array itself"
        )
    if source.pixel_dtype != np.uint8:
        raise UserError(
            "SOURCE: its images have more than 8 bits, and pixels are packed as PNG files of 8 bits. Pack the files"
            " themselves, as they are stored"
        )
    if source.has_labels and source.labels.min() < 0:
        place = source.place(int(np.argmin(source.labels)))
        raise UserError(f"SOURCE: {place} has no label, and other images have one. Give all images a label, or none")


def _check_reduction(source: ImageSource, conversion: Conversion) -> None:
    """Raise if images are to be reduced whose depth or channels JPEG does not have. The first image is looked at."""
    if conversion.short_side_px is None or source.kind == "pixels":
        return
    try:
        is_kept = is_eight_bits(source.read(0), conversion.max_pixels)
    except StorageError:
        raise
    except Exception:  # decoders raise whatever they raise
        return  # a bad file, which is found when it is packed
    if not is_kept:
        raise UserError(
            f"--short-side: {conversion.short_side_px} is not allowed, because {source.place(0)} has more than 8 bits,"
            " or other channels than RGB, and JPEG has not; leave it out to copy the files unchanged"
        )


def _check_space(source: ImageSource, output: Path, n_images: int, conversion: Conversion) -> None:
    """Raise if the disk is surely too small for files that are copied. Their sizes are sampled."""
    if source.kind != "files" or conversion.short_side_px is not None or not n_images:
        return
    sizes = []
    for index in range(0, len(source), -(-len(source) // _SAMPLED_FILES)):
        try:
            sizes.append(os.stat(source.place(index)).st_size)
        except OSError:
            continue  # a bad file, which is found when it is read
    if not sizes:
        return
    needed_gib = n_images * (float(np.mean(sizes)) + _BYTES_PER_IMAGE) / 2**30
    free_gib = shutil.disk_usage(output).free / 2**30
    if needed_gib * _SURELY > free_gib:
        raise UserError(
            f"{KEY}: {output} needs about {needed_gib:.3g} GiB, and {free_gib:.3g} GiB are free. Free disk space, name"
            " a folder on another disk, or reduce the images with --short-side"
        )
