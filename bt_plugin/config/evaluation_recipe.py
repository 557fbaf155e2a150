"""The recipe of an evaluation: the keys of recipes/evaluate/*.yaml, typed like those of a pretraining recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bt_plugin.config.data import Data
from bt_plugin.config.run import ProcessOptions
from bt_plugin.config.section import Paths, PathText, Positive, Rate, Section, Temperature
from dali_pipelines.views.params import IMAGENET_MEAN, IMAGENET_STD, EvalParams, Preset, ViewParams


class EvalData(Data):
    """The images, and how they are read. An evaluated run brings its own values."""

    val: Paths
    """Images that are classified. `data.train` must contain each of their classes."""


class View(Section):
    """How images are resized, cropped and normalized. An evaluated run or export brings its own values."""

    size_px: Positive = 224
    """Height and width of the view, in px."""
    resize_px: Positive = 256
    """Length of the shorter side after the resize and before the center crop, in px. At least `view.size_px`."""
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    """Interpolation of the resize."""
    channels: Positive = 3
    """Channels of the view. With 1, color images are converted to gray."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel, subtracted from values in [0, 1]."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, by which values are divided."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest area of a random training crop, as a fraction of the image's area."""

    @model_validator(mode="after")
    def _is_possible(self) -> View:
        try:
            self.centre, self.random  # noqa: B018 - their checks
        except ValueError as error:
            raise ValueError(f"view.{error}") from error
        return self

    @property
    def centre(self) -> EvalParams:
        """The deterministic view that is classified: resize and center crop."""
        return EvalParams(
            self.size_px, self.resize_px, self.interpolation, self.channels, tuple(self.mean), tuple(self.std)
        )

    @property
    def random(self) -> Preset:
        """The view on which a classifier is trained: a random crop, with a random horizontal flip.

        Source:
            facebookresearch/barlowtwins evaluate.py:130-135 at 8e8d284.
        """
        crop = ViewParams(
            size_px=self.size_px,
            crop_scale=self.crop_scale,
            interpolation=self.interpolation,
            jitter_p=0.0,
            gray_p=0.0,
            blur_p=0.0,
            solarize_p=0.0,
            channels=self.channels,
            mean=tuple(self.mean),
            std=tuple(self.std),
        )
        return Preset((crop,))


class Knn(Section):
    """Weighted k-nearest-neighbor classification, without training."""

    k: Positive = 20
    """Number k of nearest neighbors that vote."""
    temperature: Temperature = 0.1
    """Temperature of the vote of a neighbor, whose weight is exp(cosine similarity / temperature)."""


class Supervised(Section):
    """A classifier trained by SGD with a cosine schedule over all epochs."""

    epochs: Positive
    """Number of training epochs."""
    global_batch_size: Positive = 256
    """Images per step, over all ranks. Learning rates are used as given; they are not scaled with it."""
    lr_classifier: Rate
    """Learning rate of the classifier."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Rate
    """Weight decay of all trained parameters."""


class Linear(Supervised):
    """A linear classifier on the frozen backbone.

    Source:
        Defaults: facebookresearch/barlowtwins evaluate.py:32-44 at 8e8d284.
    """

    epochs: Positive = 100
    lr_classifier: Rate = 0.3
    weight_decay: Rate = 1e-6
    cached: bool = False
    """Whether the classifier is trained on features of the center crops, which are extracted once. It takes minutes
    instead of hours."""
    cached_lrs: Annotated[tuple[Rate, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Learning rates to try in parallel when `linear.cached` is `true`. The best one on a held-out tenth of the
    training images is used."""


class Finetune(Supervised):
    """A classifier trained together with the backbone, on a part of the training images.

    Source:
        Defaults: the README of facebookresearch/barlowtwins at 8e8d284, for 1 % of ImageNet.
    """

    epochs: Positive = 20
    lr_classifier: Rate = 0.5
    lr_backbone: Rate = 0.005
    """Learning rate of the backbone."""
    weight_decay: Rate = 0.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Fraction of the training images of each class, at least one image per class. `run.seed` draws them."""
    subset: PathText | None = None
    """Text file with the names of the training images, which replaces `finetune.fraction`. It has one name per line,
    as FOLDER/NAME or NAME."""


class EvalRun(ProcessOptions):
    """The processes of the evaluation, and where it writes."""

    output_dir: PathText | None = None
    """Folder of the results. `null`: the folder eval of the evaluated run or export, else a folder in ./eval."""
    batch_size: Positive = 256
    """Images per forward pass, on each rank."""
    log_every_steps: Positive = 100
    """Steps between two log lines with the classifier's loss."""


class EvaluationRecipe(Section):
    """An evaluation. kNN, linear classification and fine-tuning have a section each."""

    data: EvalData
    view: View = View()
    knn: Knn = Knn()
    linear: Linear = Linear()
    finetune: Finetune = Finetune()
    run: EvalRun = EvalRun()
