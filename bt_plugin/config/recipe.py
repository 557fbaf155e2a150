"""The recipe: a YAML file that describes a whole run. It is checked before any image is read.

This module imports neither torch nor DALI, so that a mistake in a recipe is reported within a second.

docs/recipe_keys.py writes the page docs/recipe_keys.md from these classes. The docstring of a class introduces its
section; the docstring below a field describes its key.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from bt_plugin.errors import RecipeError
from dali_pipelines.views.params import MOST_PIXELS, PRESETS, Preset, ViewParams

# No run needs more. A larger value is a typing error, which would otherwise fail much later.
Positive = Annotated[int, Field(ge=1, le=10**9)]
# The largest values of float32 are about 3.4e38.
Rate = Annotated[float, Field(ge=0, le=1e38)]
Widths = Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(min_length=1, max_length=32)]
# Linux allows paths of 4095 bytes.
PathText = Annotated[str, Field(min_length=1, max_length=4095)]


class Section(BaseModel):
    """A section of a recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Data(Section):
    """The images, and how they are read and augmented."""

    train: PathText
    """Training images: a folder, a list of files (.csv, .tsv or .txt), .tar shards (wildcards and braces are allowed),
    or a .npz file with the arrays `images` and `labels`. A folder contains a subfolder for each class, or images
    without classes."""
    val: PathText | None = None
    """Validation images with classes, in the same formats. `null`: no evaluation that needs labels."""
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
    max_bad_files: Annotated[int, Field(ge=0)] = 100
    """Unreadable training files that are allowed per rank. Each is logged once and replaced by another image. One more
    stops the run."""
    max_pixels: Annotated[int, Field(ge=1, le=MOST_PIXELS)] = MOST_PIXELS
    """Largest height times width of a stored image, in pixels. A larger image is not decoded and counts as unreadable.
    """


class _Changes(Section):
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


# Every field of ViewParams except channels, each optional: what a recipe changes in a preset.
if TYPE_CHECKING:
    _ViewChanges = _Changes
else:
    _hints = get_type_hints(ViewParams)
    _ViewChanges = create_model(
        "_ViewChanges",
        __base__=_Changes,
        **{name: (hint | None, None) for name, hint in _hints.items() if name != "channels"},
    )


class Views(Section):
    """The augmentations of the two views: a preset, and changes to it."""

    preset: str = "barlow_twins"
    """Named augmentations: `barlow_twins`, or `barlow_twins_32` for images of about 32 px (views of 32 px, no blur)."""
    both: _ViewChanges = _ViewChanges()
    """Changes to both views, such as {size_px: 64}."""
    a: _ViewChanges = _ViewChanges()
    """Changes to the first view alone."""
    b: _ViewChanges = _ViewChanges()
    """Changes to the second view alone."""

    def resolved(self, channels: int) -> Preset:
        """Return the preset with the recipe's changes.

        Args:
            channels: Channels of the images.

        Raises:
            ValueError: If there is no such preset, or a value of a view is out of range. The message begins with the
                key.
        """
        pairs = {name: preset for name, preset in PRESETS.items() if len(preset.views) == 2}
        if self.preset not in pairs:
            raise ValueError(
                f"views.preset: {self.preset!r} is not allowed; it must be a preset of two views: {', '.join(pairs)}"
            )
        preset = pairs[self.preset]
        views = []
        for view, own in zip(preset.views, ("a", "b")):
            changes = self.both.given() | getattr(self, own).given()
            try:
                views.append(replace(view, channels=channels, **changes))
            except ValueError as error:
                raise ValueError(f"views.{own}.{error}") from error
        return replace(preset, views=tuple(views))


class Model(Section):
    """The network: a backbone, and a projector of fully connected layers."""

    backbone: Annotated[str, Field(max_length=200)] = "torchvision/resnet50"
    """Name of the backbone: `torchvision/NAME` or `timm/NAME`."""
    stem: Literal["standard", "small"] = "standard"
    """First layers of a ResNet. `small` is a 3x3 convolution of stride 1 without max-pooling, for views of 64 px or
    less."""
    in_chans: Annotated[int, Field(ge=1, le=1024)] = 3
    """Channels of the views. With 1, color images are converted to gray. With a number other than 1 and 3, the images
    must have that number of channels."""
    zero_init_residual: bool = True
    """Whether the last BatchNorm weight of each residual branch of a ResNet starts at zero."""
    init: PathText | None = None
    """Weights to start from: a run's directory, an export, or a file of torchvision, timm, the official code, Lightly
    or solo-learn. `torchvision` and `timm` are the library's own weights of `model.backbone`, which are downloaded.
    `null`: random weights. Not read again when the run resumes."""
    init_projector: Literal["auto", "never"] = "auto"
    """Whether the projector starts from the weights in `model.init`, if they have one of the same widths."""
    init_strict: bool = True
    """Whether every tensor of the backbone must be in `model.init`. With `false`, those that fit are used."""
    init_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Hash of the tensors that the run started from. The run writes it into its recipe.yaml. If it is set, other
    weights are refused."""
    projector: Widths = [8192, 8192, 8192]
    """Output widths of the projector's layers. The last is D, the dimension of the embeddings."""


class Loss(Section):
    """The Barlow Twins loss."""

    lambda_param: Rate | Literal["auto"] = 5.1e-3
    """Weight lambda of the redundancy term. `auto` is 1 / D."""
    form: Literal["auto", "cross", "gram"] = "auto"
    """How the redundancy term is computed: through the D x D cross-correlation matrix, or through two N x N Gram
    matrices of the global batch. The values are equal. `auto` picks the form that is estimated to be faster."""


class Optim(Section):
    """LARS, its schedule, and the batch."""

    epochs: Annotated[int, Field(ge=1, le=10**6)] = 1000
    """Number of training epochs."""
    warmup_epochs: Annotated[float, Field(ge=0, le=10**6)] = 10.0
    """Epochs of linear warm-up, fewer than `optim.epochs`."""
    global_batch_size: Annotated[int, Field(ge=2, le=2**24)] = 2048
    """Images per step, over all ranks."""
    accumulation_steps: Positive = 1
    """Micro-batches that a rank embeds one after the other in each step, to save memory. The gradient is exactly that
    of the whole global batch."""
    lr_weights: Rate = 0.2
    """Base learning rate of the weights. It is multiplied by `optim.global_batch_size` / 256."""
    lr_biases: Rate = 0.0003
    """Base learning rate of biases and normalization layers. It is multiplied by `optim.global_batch_size` / 256."""
    weight_decay: Rate = 1.6e-5
    """Weight decay of the weights. Biases and normalization layers have none."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of LARS."""
    eta: Rate = 0.001
    """Trust coefficient of LARS."""
    final_lr_scale: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Learning rates at the end of the cosine schedule, as a fraction of their peak."""

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Optim:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be less than epochs ({self.epochs})")
        return self


class ProcessOptions(Section):
    """How the processes of a run are started and joined. Pretraining and evaluation share these keys."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights, the order of the images and the augmentations."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the training and of DALI. `auto` is `gpu` if torch finds a GPU, else `cpu`."""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """Precision of the backbone and the projector. `auto` takes it from `accelerate launch`. `fp16` is not allowed
    on a CPU or with FSDP. The loss is always computed in float32."""
    timeout_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] = 1800
    """Seconds that a rank waits for another rank. After that the run stops, so that no rank waits forever."""
    deterministic: bool = False
    """Whether torch uses only deterministic algorithms. A repeated run is then bit-identical, and slower on a GPU."""
    gradient_as_bucket_view: bool = True
    """Whether gradients are stored directly in the buffers that the ranks exchange. This saves one copy of them."""
    static_graph: bool = False
    """Whether DistributedDataParallel may assume the same graph in every step. Not allowed with
    `optim.accumulation_steps` above 1."""


class Run(ProcessOptions):
    """The run: its directory, device, checkpoints and logs."""

    output_dir: PathText
    """Directory of the run. Every run needs its own."""
    log_every_steps: Positive = 10
    """Steps between two lines of metrics.jsonl."""
    trackers: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = ["tensorboard"]
    """Trackers that the run logs to, in addition to metrics.jsonl. `[]`: none."""
    checkpoint_every_steps: Positive | None = None
    """Steps between two checkpoints. `null`: one checkpoint per epoch."""
    keep_checkpoints: Positive = 2
    """Number of checkpoints to keep. Older ones are removed."""
    resume: PathText = "latest"
    """Checkpoint to resume from. `latest`: the newest one of this run, or a fresh start if there is none. `never`: a
    directory that contains a run is an error. Else: the path of a checkpoint of this run."""
    on_world_change: Literal["refuse", "epoch", "continue"] = "refuse"
    """What to do if the number of ranks differs from that of the checkpoint, and the checkpoint is in the middle of an
    epoch. `refuse`: stop with an error. `epoch`: resume from the newest checkpoint at the end of an epoch. `continue`:
    resume at this step with the same global batches, and with new random states."""
    max_nonfinite_steps: Annotated[int, Field(ge=0)] = 10
    """Consecutive steps with a NaN or infinite loss or gradient that are allowed. All ranks skip the update of such a
    step. One more stops the run."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """Memory layout of weights and images. `auto` is `channels_last` on a GPU or with `run.compile`, else a choice for
    each layer. FSDP keeps weights contiguous."""
    compile: bool = False
    """Whether `torch.compile` compiles the backbone and the projector. The first step then takes a minute or more."""
    max_steps: Positive | None = None
    """Stop after this many steps, for trials. The schedule still spans all epochs. `null`: train all epochs."""


class Eval(Section):
    """Evaluation during a run and at its end."""

    every_epochs: Positive | None = None
    """Epochs between two evaluations during training: kNN, an online linear probe, and metrics that need no labels.
    The weights of the run are bit-identical with and without evaluation. `null`: no evaluation during training."""
    online_images: Positive = 2048
    """Images of `data.train`, and as many of `data.val`, that an evaluation during training uses. If there are more, a
    random subset is drawn."""
    probe_lr: Rate = 0.1
    """Learning rate of the online linear probe."""
    knn: bool = True
    """Whether the run ends with a kNN evaluation on `data.val`."""
    knn_k: Positive = 20
    """Number k of nearest neighbors that vote."""
    knn_temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.1
    """Temperature of the vote of a neighbor, whose weight is exp(cosine similarity / temperature)."""
    knn_bank_images: Positive = 50_000
    """Training images among which neighbors are searched. If there are more, a random subset is drawn."""
    batch_size: Positive = 256
    """Images per forward pass of an evaluation, on each rank."""


class Recipe(Section):
    """A whole pretraining run. Defaults are the values of the official code."""

    data: Data
    views: Views = Views()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    run: Run
    eval: Eval = Eval()

    @model_validator(mode="after")
    def _graph_is_static(self) -> Recipe:
        if self.run.static_graph and self.optim.accumulation_steps > 1:
            raise ValueError(
                f"run.static_graph: true is not allowed with optim.accumulation_steps={self.optim.accumulation_steps},"
                " because the graph differs between micro-batches; set run.static_graph to false, or"
                " optim.accumulation_steps to 1"
            )
        return self

    @model_validator(mode="after")
    def _augments_on_a_gpu(self) -> Recipe:
        if self.data.augment == "fused" and self.run.device == "cpu":
            raise ValueError(
                "data.augment: fused is not allowed with run.device=cpu, because its kernels run on a GPU; set"
                " data.augment to auto. On a CPU data.backend=native computes the same steps"
            )
        if self.data.on_device is True and self.run.device == "cpu":
            raise ValueError(
                "data.on_device: true is not allowed with run.device=cpu, where images are in memory anyway; set"
                " data.on_device to auto"
            )
        return self

    @model_validator(mode="after")
    def _views_are_possible(self) -> Recipe:
        self.views.resolved(self.model.in_chans)
        return self

    @property
    def preset(self) -> Preset:
        """The two views of the training, with the recipe's changes."""
        return self.views.resolved(self.model.in_chans)

    def batch_size_per_rank(self, world_size: int) -> int:
        """Return the images per step on one rank, over all its micro-batches.

        Args:
            world_size: Number of ranks, 1 or more.

        Raises:
            RecipeError: If the global batch does not divide over ranks and micro-batches, or a micro-batch has fewer
                than two images.
        """
        batch, accumulation = self.optim.global_batch_size, self.optim.accumulation_steps
        parts = world_size * accumulation
        shares = f"{world_size} ranks" + (f" x {accumulation} accumulation_steps" if accumulation > 1 else "")
        size, rest = divmod(batch, parts)
        if rest:
            near = ", ".join(str(size) for size in (batch - rest, batch - rest + parts) if size)
            raise RecipeError(
                f"optim.global_batch_size: {batch} does not divide over {shares}; use {near},"
                " or another number of ranks"
            )
        if size < 2:
            raise RecipeError(
                f"optim.global_batch_size: {batch} over {shares} is {size} image each, and BatchNorm"
                f" needs at least 2; use {2 * parts} or more, or fewer ranks"
            )
        return size * accumulation

    def steps_per_epoch(self, n_images: int) -> int:
        """Return the number of steps in an epoch. The last, incomplete global batch is dropped.

        Args:
            n_images: Number of training images.

        Raises:
            RecipeError: If there are fewer images than one global batch.
        """
        steps = n_images // self.optim.global_batch_size
        if steps == 0:
            raise RecipeError(
                f"optim.global_batch_size: {self.optim.global_batch_size} is more than the {n_images} images of"
                f" data.train {self.data.train}; use at most {n_images}, or more images"
            )
        return steps

    def resolved_dict(self) -> dict[str, dict[str, Any]]:
        """Return the recipe as sections of plain values, with every key of the views. It loads as the same recipe."""
        content = self.model_dump(mode="json")
        views = [asdict(view) for view in self.preset.views]
        for view in views:
            del view["channels"]  # model.in_chans gives it
        content["views"] = {"preset": self.views.preset, "a": views[0], "b": views[1]}
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(content))
        return plain

    def flat_dict(self) -> dict[str, Any]:
        """Return the recipe as one flat dict with keys such as ``optim.epochs``."""
        sections = self.resolved_dict()
        return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}

    def to_yaml(self) -> str:
        """Return the resolved recipe as the text of a YAML file."""
        return yaml.safe_dump(self.resolved_dict(), sort_keys=False, default_flow_style=None, width=120)
