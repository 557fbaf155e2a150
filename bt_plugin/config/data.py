"""The recipe's section `data`: the images, and how they are read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from bt_plugin.config.section import Paths, PathText, Section
from dali_pipelines.depth.value_range import Pair, parse_value_range
from dali_pipelines.orders import MOST_WEIGHT
from dali_pipelines.storage.options import Storage
from dali_pipelines.views.params import MOST_PIXELS

Weight = Annotated[float, Field(gt=0, le=MOST_WEIGHT)]


def _checked_range(value: Any) -> Any:
    """Return the value of data.value_range if it is a rule."""
    try:
        parse_value_range(value)
    except ValueError as error:
        # The message of an error of a recipe begins with key and value.
        raise ValueError(str(error).partition("is not allowed; ")[2]) from error
    # YAML has lists.
    return value if isinstance(value, str) else tuple(tuple(e) if isinstance(e, list) else e for e in value)


ValueRange = Annotated[str | Pair | tuple[Pair, ...], BeforeValidator(_checked_range)]


class Data(Section):
    """The images, and how they are read and augmented."""

    train: Paths
    """Training images: a folder, a list of files (.csv, .tsv or .txt), .tar shards, .parquet files, a dataset of
    save_to_disk, or a .npz file with the arrays `images`, `labels` and `classes` (names of the classes). Shards and
    .parquet files may have wildcards and braces. A folder contains a subfolder for each class, images without classes,
    or .parquet files.
    `?image=COLUMN&label=COLUMN` after .parquet files selects columns. A list such as `[A, B]` is all of these, one
    source after the other. Lists of files, .tar shards and .parquet files may be URLs: s3://, gs://, http(s):// or
    hf://datasets/."""
    weights: tuple[Weight, ...] | None = None
    """How often an epoch sees each image of each source of the list `data.train`, on average: `[1, 2.5]`. `null`: once.
    Evaluations use every image once."""
    cache_dir: PathText | None = None
    """Folder for bytes that are fetched from URLs. All ranks of a host share it. `null`: dali_pipelines/objects in
    $XDG_CACHE_HOME, by default in ~/.cache."""
    cache_gib: Annotated[float, Field(ge=0, le=2**20)] = 10.0
    """Largest size of that folder, in GiB. If it holds all images, only the first epoch fetches them. 0: nothing is
    kept."""
    val: Paths | None = None
    """Validation images with classes, in the same formats. `null`: no evaluation that needs labels."""
    value_range: ValueRange = "auto"
    """The pixel values that become 0 and 255, for images of more than 8 bits or other channels than RGB: `[lo, hi]`, or
    such a pair for each channel. `percentiles(1, 99)`: these percentiles of each channel, over 256 images of
    `data.train`. `window`: the window of each DICOM file. `auto`: the range of the type, if it is known, else
    `percentiles(0.1, 99.9)`."""
    value_range_used: Literal["window"] | tuple[Pair, ...] | None = None
    """The pair of each channel that `data.value_range` stands for. The run writes it here, and its evaluations use it.
    """
    channels: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Channels of the images that are used, in this order: `[3, 2, 1]`. The first channel has number 0. `null`: all
    channels except alpha."""
    backend: Literal["auto", "dali", "native"] = "auto"
    """The backend that computes the views. `native` uses torch and numba on the CPU, also for a run on a GPU, and does
    not need DALI. `auto` is `dali` on a GPU and `native` on a CPU."""
    augment: Literal["auto", "dali", "fused"] = "auto"
    """What augments training views on a GPU after the images are cropped and resized. `fused` is four kernels of our
    own, with each backend. `dali` is DALI's operators with backend `dali`, and the CPU's kernel with backend `native`.
    `fused` has not yet run on a GPU, so `auto` is `dali` for now. Evaluations do not use this key."""
    on_device: bool | Literal["auto"] = "auto"
    """Whether all training images are kept on the GPU, and cropped, resized and augmented there. Only for images that
    are one array of pixels, such as a .npy file, of at most half of the GPU's memory. `auto` is `false` for now,
    because this has not yet run on a GPU."""
    num_threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Threads per rank that compute the views. `null`: this rank's share of the CPU cores."""
    prefetch: Annotated[int, Field(ge=1, le=256)] = 2
    """Batches that are computed ahead of the training step. Each needs memory."""
    hw_decoder_load: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Share of the training JPEGs that the GPU's JPEG hardware decodes. It has no effect on a GPU without it."""
    shuffle_window: Annotated[int, Field(ge=1)] | None = None
    """Training images that are shuffled together, for .parquet files. Row groups are in random order, and each window
    of consecutive images is shuffled. `null` shuffles all images of an epoch, which decodes a row group for almost
    every image."""
    max_bad_files: Annotated[int, Field(ge=0)] = 100
    """Unreadable training files that are allowed per rank. Each is logged once and replaced by another image. One more
    stops the run."""
    max_pixels: Annotated[int, Field(ge=1, le=MOST_PIXELS)] = MOST_PIXELS
    """Largest height times width of a stored image, in pixels. A larger image is not decoded and counts as unreadable.
    """

    @model_validator(mode="after")
    def _weights_are_of_the_sources(self) -> Data:
        if self.weights is None:
            return self
        if isinstance(self.train, str):
            raise ValueError(
                f"data.weights: {list(self.weights)} is allowed only with a list of sources, and data.train is"
                f" {self.train}; set data.weights to null, or data.train to a list"
            )
        if len(self.weights) != len(self.train):
            raise ValueError(
                f"data.weights: {list(self.weights)} has {len(self.weights)} weights, and data.train has"
                f" {len(self.train)} sources; give one weight for each source"
            )
        return self

    @property
    def storage(self) -> Storage:
        """The options that say where bytes from URLs are kept."""
        return Storage(self.cache_dir, self.cache_gib)
