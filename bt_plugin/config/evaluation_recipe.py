"""What an evaluation does, typed as a recipe is: the keys of recipes/evaluate/*.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bt_plugin.config.recipe import Data, PathText, Positive, ProcessOptions, Rate, Section
from dali_pipelines.views.params import IMAGENET_MEAN, IMAGENET_STD, EvalParams, Preset, ViewParams


class EvalData(Data):
    val: PathText
    """The images that are classified; data.train must have their classes."""


class View(Section):
    """How images are shown; what is evaluated brings its own where it knows it."""

    size_px: Positive = 224
    """Height and width."""
    resize_px: Positive = 256
    """The shorter side before the centre is cropped."""
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    """Of the resize."""
    channels: Positive = 3
    """Of the images."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted per channel from values in [0, 1]."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divided by, per channel."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of a training crop, as a fraction of the image's."""

    @model_validator(mode="after")
    def _is_possible(self) -> View:
        try:
            self.centre, self.random  # noqa: B018 - their checks
        except ValueError as error:
            raise ValueError(f"view.{error}") from error
        return self

    @property
    def centre(self) -> EvalParams:
        """The view that is classified."""
        return EvalParams(
            self.size_px, self.resize_px, self.interpolation, self.channels, tuple(self.mean), tuple(self.std)
        )

    @property
    def random(self) -> Preset:
        """The view that a classifier is trained on: a crop, flipped or not.

        Source:
            facebookresearch/barlowtwins evaluate.py:130-135 at 8e8d284.
        """
        crop = ViewParams(
            self.size_px,
            self.crop_scale,
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
    k: Positive = 20
    """Neighbours that vote."""
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.1
    """Of the votes' weights, exp(similarity / temperature)."""


class Supervised(Section):
    """A classifier trained by SGD, with a cosine over epochs."""

    epochs: Positive
    """Of training."""
    global_batch_size: Positive = 256
    """Images a step, over all ranks; the rates are for it, and not scaled."""
    lr_classifier: Rate
    """Rate of the classifier."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    weight_decay: Rate
    """Of all that is trained."""


class Linear(Supervised):
    """Defaults: facebookresearch/barlowtwins evaluate.py:32-44 at 8e8d284."""

    epochs: Positive = 100
    lr_classifier: Rate = 0.3
    weight_decay: Rate = 1e-6
    cached: bool = False
    """Whether the classifier is trained on features of the centre crops, extracted once: minutes, not hours."""
    cached_lrs: Annotated[tuple[Rate, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Rates that are tried side by side where features are cached; a tenth of the training images chooses."""


class Finetune(Supervised):
    """Defaults: the README of facebookresearch/barlowtwins at 8e8d284, for 1 % of ImageNet."""

    epochs: Positive = 20
    lr_classifier: Rate = 0.5
    lr_backbone: Rate = 0.005
    """Rate of the backbone."""
    weight_decay: Rate = 0.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the training images, of each class alike, drawn by run.seed; at least one of each."""
    subset: PathText | None = None
    """A file with the names of the training images instead, one a line, as FOLDER/NAME or NAME."""


class EvalRun(ProcessOptions):
    output_dir: PathText | None = None
    """Where results are written; null is RUN/eval, or eval for what is no run."""
    batch_size: Positive = 256
    """Images of a rank that are embedded at a time."""
    log_every_steps: Positive = 100
    """Steps between two lines of a classifier's loss."""


class EvaluationRecipe(Section):
    """An evaluation: kNN, linear or fine-tuning, each with its section."""

    data: EvalData
    view: View = View()
    knn: Knn = Knn()
    linear: Linear = Linear()
    finetune: Finetune = Finetune()
    run: EvalRun = EvalRun()
