"""The loader of random views. Its batches have the structure that Lightly expects: (views, targets, filenames)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dali_pipelines.backend import Backend, BackendName, check_allows_float, resolve_backend
from dali_pipelines.decoding.bad_files import BadFiles
from dali_pipelines.errors import BadImageError, StorageError
from dali_pipelines.gpu.pixels import check_fits
from dali_pipelines.memory import check_memory
from dali_pipelines.orders import Order
from dali_pipelines.plans import Plan, announced
from dali_pipelines.ranks import rank_and_world_size
from dali_pipelines.shards import Shards
from dali_pipelines.sources import ImageSource, Upcoming, open_source
from dali_pipelines.sources.arrays import check_range_known
from dali_pipelines.streams import view_stream
from dali_pipelines.views.channels import views_of_channels
from dali_pipelines.views.draws import draw_views
from dali_pipelines.views.identity import views_identity
from dali_pipelines.views.params import Preset, resolve_views

if TYPE_CHECKING:
    from dali_pipelines.dali.stream import DaliStream
    from dali_pipelines.gpu.pixels import PixelStream
    from dali_pipelines.native.stream import NativeStream

logger = logging.getLogger(__name__)

# Names for messages, for the keys of a loader's state that do not explain themselves.
_CALLED = {
    "n_samples": "the number of images (n_samples)",
    "source": "the fingerprint of the images' names, labels, order and stored versions, and of the order of the sources"
    " (source)",
    "weights": "how often an epoch sees each image of each source (weights)",
    "window": "shuffle_window",
}
# Keys that a state has only if the order of the images is not a plain permutation.
_OPTIONAL = ("weights", "window")


class Batch(NamedTuple):
    """One batch of random views.

    Attributes:
        views: Views of the images, one tensor for each view of the preset.
        targets: Labels; -1 where the source has no labels.
        filenames: Names of the images, as the source has them: relative to its folder, SHARD/MEMBER, or numbers.

    Shape:
        n is batch_size_per_rank / micro_batches.

        - views: each (n, C, H, W) float32 (float16 with Tuning.float16), channels_last, on the loader's device.
        - targets: (n,) int64, on the CPU.
        - filenames: n strings.
    """

    views: tuple[Tensor, ...]
    targets: Tensor
    filenames: list[str]


class TwoViewLoader:
    """Iterate over random views of every image. Each iteration is one epoch.

    A batch is a pure function of (seed, epoch, step). So the batches are the same after a resume, and the global batch
    of a step is the same on any number of ranks. If you leave an epoch early, the next iteration begins the next epoch.
    After load_state_dict, the next iteration resumes from the state.

    Args:
        source: Source of the images, or a path or a list of paths (see open_source).
        batch_size_per_rank: Number of images per rank and step, 1 or more.
        views: Preset, or the name of one: "barlow_twins", "barlow_twins_32", or the multi-crop views "swav" and "dino".
        backend: Backend that computes the views, or its name: "auto", "dali" or "native".
        rank: Rank of this process, 0 to world_size - 1. Default: the rank of torch.distributed, else $RANK, else 0.
            torch.distributed may also be initialized after the loader is built, as Lightning does.
        world_size: Number of ranks. Default: the size of torch.distributed, else $WORLD_SIZE, else 1.
        seed: Seed of the order and the augmentations, 0 or more, the same on every rank.
        shuffle_window: Number of images that are shuffled together, 1 or more, for a source that reads images in
            groups, such as the row groups of parquet files. Groups are in random order. None shuffles all images.
        micro_batches: Number of micro-batches that a step's batch is split into, for gradient accumulation. It must
            divide batch_size_per_rank. The images and views of a step do not depend on it.
        max_bad_files: Number of unreadable images that are replaced, 0 or more. Each is replaced by the next readable
            image and logged once. One more raises BadImageError.

    Raises:
        ValueError: If an argument is out of range, there are fewer images than one global batch, or a setting of the
            backend is not allowed for images of this depth and number of channels.
        ImportError: If DALI must compute the views and is not installed.

    Examples:
        >>> for views, targets, filenames in TwoViewLoader("images/", batch_size_per_rank=256):
        ...     z_a, z_b = model(views[0]), model(views[1])
    """

    def __init__(
        self,
        source: ImageSource | str | Path | Sequence[str | Path],
        batch_size_per_rank: int,
        views: str | Preset = "barlow_twins",
        *,
        backend: Backend | BackendName = "auto",
        rank: int | None = None,
        world_size: int | None = None,
        seed: int = 0,
        shuffle_window: int | None = None,
        micro_batches: int = 1,
        max_bad_files: int = 100,
    ) -> None:
        if max_bad_files < 0:
            raise ValueError(f"max_bad_files: {max_bad_files} is not allowed; it must be 0 or more")
        if micro_batches < 1 or batch_size_per_rank % micro_batches:
            raise ValueError(
                f"micro_batches: {micro_batches} is not allowed; it must divide batch_size_per_rank,"
                f" {batch_size_per_rank}"
            )
        self.source = source if isinstance(source, ImageSource) else open_source(source)
        check_range_known(self.source)
        self._given = rank, world_size
        rank, world_size = rank_and_world_size(rank, world_size)
        self.views = views_of_channels(resolve_views(views).views, self.source.channels, is_told=rank == 0)
        self.backend = resolve_backend(backend)
        in_float = self.source.views_in_float
        if in_float:
            check_allows_float(self.backend)
        samples = batch_size_per_rank // micro_batches
        check_memory(self.views, samples=samples, backend=self.backend, in_float=in_float)
        if self.backend.on_device:
            check_fits(self.source, torch.cuda.mem_get_info()[1])
        check_window(self.source, shuffle_window)
        kept = self.source.kept_images
        if rank == 0 and kept is not None and kept < (shuffle_window or 0):
            logger.warning(
                "shuffle_window: %d images do not all stay in memory, so their groups are decoded several times; use at"
                " most %d", shuffle_window, kept,
            )  # fmt: skip
        self._order = Order(self.source.parts, seed, groups=self.source.groups, window=shuffle_window)
        self._shards = Shards(self._order, batch_size_per_rank, rank, world_size)
        self.micro_batches = micro_batches
        self.bad_files = BadFiles(len(self.source), max_bad_files)
        self._stream: DaliStream | NativeStream | PixelStream | None = None
        self._stream_at = 0
        # Number of the next batch, counted over all epochs.
        self._position = 0
        self._resumed = False

    @property
    def shards(self) -> Shards:
        """This rank's share of the images. It follows torch.distributed until the first batch."""
        if self._stream is None and self._position == 0:
            rank, world_size = rank_and_world_size(*self._given)
            self._shards = replace(self._shards, rank=rank, world_size=world_size)
        return self._shards

    def __len__(self) -> int:
        """Return the number of batches per epoch, micro_batches for each step. It is the same on every rank."""
        return self.shards.steps_per_epoch * self.micro_batches

    def __iter__(self) -> Iterator[Batch]:
        batches = len(self)
        if self._position % batches and not self._resumed:
            self._position += batches - self._position % batches
        self._resumed = False
        first = self._position
        for position in range(first, first - first % batches + batches):
            plan, views = self._take(position)
            self._position = position + 1
            targets = torch.from_numpy(self.source.labels[plan.indices])
            yield Batch(views, targets, [self.source.names[index] for index in plan.indices])

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next batch, and the settings that the batches depend on.

        The position is that of a whole step. After a resume, a step of which only some micro-batches were used
        starts again with its first micro-batch.
        """
        return self.state_after(self._position // self.micro_batches)

    def state_after(self, steps: int) -> dict[str, Any]:
        """Return the state after a number of steps, as state_dict returned it then.

        Args:
            steps: Number of steps over all epochs, 0 or more.
        """
        epoch, step = divmod(steps, self.shards.steps_per_epoch)
        return {"epoch": epoch, "step": step, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state. The next batches are bit-identical to those of the loader that saved the state.

        Args:
            state: State that state_dict returned.

        Raises:
            ValueError: If a setting that the batches depend on is different now; the message names it.
        """
        for key, value in {**dict.fromkeys(_OPTIONAL), **self._identity()}.items():
            if state.get(key) != value:
                raise ValueError(
                    f"loader state: {_CALLED.get(key, key)} was {state.get(key)!r} and is {value!r} now, so the batches"
                    " would differ; restore it, or start a new run"
                )
        self._position = (state["epoch"] * self.shards.steps_per_epoch + state["step"]) * self.micro_batches
        self._resumed = True

    def _identity(self) -> dict[str, Any]:
        return {
            "n_samples": len(self.source),
            "source": self.source.fingerprint,
            "global_batch_size": self.shards.global_batch_size,
            "seed": self._order.seed,
            "views": views_identity(self.views),
            **self._order.identity,
        }

    def _take(self, position: int) -> tuple[Plan, tuple[Tensor, ...]]:
        while True:
            try:
                if self._stream is None:
                    self._stream = self._open_stream(position)
                elif self._stream_at != position:
                    self._stream.restart(self._plans(position))
                batch = next(self._stream)
            except BadImageError as error:
                self.bad_files.add(error)
                # DALI's pipeline does not survive every error.
                self._stream = None
            except StorageError:
                self._stream = None
                raise
            else:
                self._stream_at = position + 1
                return batch

    def _open_stream(self, position: int) -> DaliStream | NativeStream | PixelStream:
        size = self.shards.batch_size_per_rank // self.micro_batches
        plans = self._plans(position)
        return view_stream(self.source, self.views, plans=plans, batch_size=size, backend=self.backend)

    def _plans(self, position: int) -> Iterator[Plan]:
        step, pieces_done = divmod(position, self.micro_batches)
        steps = announced(self.source, count(step), self._upcoming, images_per_step=self.shards.batch_size_per_rank)
        plans = chain.from_iterable(self._plans_of_step(number) for number in steps)
        return islice(plans, pieces_done, None)

    def _upcoming(self, number: int) -> Upcoming:
        epoch, step = divmod(number, self.shards.steps_per_epoch)
        uses = self.shards.uses(step)
        return Upcoming(
            mine=self.bad_files.replaced(self.shards.indices(epoch, step)),
            everyone=self._order.epoch(epoch)[uses],
            first_use=epoch * len(self._order) + uses.start,
            next_use=self._order.next_use(epoch)[uses],
        )

    def _plans_of_step(self, number: int) -> Iterator[Plan]:
        shards = self.shards
        epoch, step = divmod(number, shards.steps_per_epoch)
        indices = self.bad_files.replaced(shards.indices(epoch, step))
        draws = draw_views(self.views, shards.global_batch_size, self._order.seed, epoch, step)
        mine = [view.rows(shards.slots) for view in draws]
        size = len(indices) // self.micro_batches
        for rows in (slice(begin, begin + size) for begin in range(0, len(indices), size)):
            yield Plan(indices[rows], tuple(view.rows(rows) for view in mine))


def check_window(source: ImageSource, window: int | None) -> None:
    """Raise if the images of a source cannot be shuffled in windows.

    Args:
        source: Source of the images.
        window: Number of images that are shuffled together; None for all.

    Raises:
        ValueError: If there is a window, and it is below 1 or the source has no groups.
    """
    if window is None:
        return
    if window < 1:
        raise ValueError(f"shuffle_window: {window} is not allowed; it must be 1 or more, or null for no windows")
    if source.groups is None:
        raise ValueError(
            f"shuffle_window: {window} is not allowed, because the source reads each image alone; leave it out, which"
            " shuffles all images"
        )
