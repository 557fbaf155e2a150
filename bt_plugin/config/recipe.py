"""The recipe: a YAML file that says everything about a run, checked before anything is read.

Imports neither torch nor DALI, so that a mistake is answered at once.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from bt_plugin.errors import RecipeError
from dali_pipelines.views.params import MOST_PIXELS, PRESETS, Preset, ViewParams

# Bounds that no run needs to pass: beyond them a value is a slip of the keyboard, and would fail much later.
Positive = Annotated[int, Field(ge=1, le=10**9)]
# What float32 holds.
Rate = Annotated[float, Field(ge=0, le=1e38)]
Widths = Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(min_length=1, max_length=32)]
# As Linux has it.
PathText = Annotated[str, Field(min_length=1, max_length=4095)]


class Section(BaseModel):
    """Keys that belong together; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Data(Section):
    train: PathText
    """The training images: a folder, CLASS/*.jpg or images without classes; a .csv, .tsv or .txt list of files; .tar
    shards, with wildcards and braces; or a .npz file with the arrays images and labels."""
    val: PathText | None = None
    """The validation images, with classes; without it there is no evaluation."""
    backend: Literal["auto", "dali", "native"] = "auto"
    """Who makes the views: auto is DALI on a GPU, and on a CPU torch and numba, which need no DALI."""
    num_threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Threads that make them on each rank; null is the rank's share of the cores."""
    prefetch: Annotated[int, Field(ge=1, le=256)] = 2
    """Batches made ahead."""
    hw_decoder_load: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Share of the JPEGs of training that a GPU's decoding hardware takes, where it has any."""
    max_bad_files: Annotated[int, Field(ge=0)] = 100
    """Training files of a rank that may be unreadable; each is replaced by another, and logged."""
    max_pixels: Annotated[int, Field(ge=1, le=MOST_PIXELS)] = MOST_PIXELS
    """Height times width of an encoded image; a larger one is not decoded and counts as unreadable."""


class _Changes(Section):
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


# Every field of ViewParams, each optional: what a recipe changes of a preset.
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
    preset: str = "barlow_twins"
    """barlow_twins, or barlow_twins_32 for images of about 32 px (no blur)."""
    both: _ViewChanges = _ViewChanges()
    """Changes to both views, such as {size_px: 64}."""
    a: _ViewChanges = _ViewChanges()
    """Changes to the first view alone."""
    b: _ViewChanges = _ViewChanges()
    """Changes to the second view alone."""

    def resolved(self, channels: int) -> Preset:
        """The preset with the changes, for images of so many channels.

        Raises:
            ValueError: If there is no such preset, or a view is not possible; the message begins with the key.
        """
        pairs = {name: preset for name, preset in PRESETS.items() if len(preset.views) == 2}
        if self.preset not in pairs:
            raise ValueError(
                f"views.preset: {self.preset!r} is not allowed; presets of two views are {', '.join(pairs)}"
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
    backbone: Annotated[str, Field(max_length=200)] = "torchvision/resnet50"
    """torchvision/NAME or timm/NAME."""
    stem: Literal["standard", "small"] = "standard"
    """small: a ResNet's 3x3 stem without max-pool, for images of 64 px and less."""
    in_chans: Annotated[int, Field(ge=1, le=1024)] = 3
    """Channels of the views; 1 makes them gray, others than 3 need images that have as many."""
    zero_init_residual: bool = True
    """Whether a ResNet's residual branches start as zero."""
    projector: Widths = [8192, 8192, 8192]
    """Widths of the projector's layers; the last is the dimension of the embeddings."""


class Loss(Section):
    lambda_param: Rate | Literal["auto"] = 5.1e-3
    """Weight of the redundancy-reduction term; auto is 1 / D."""
    form: Literal["auto", "cross", "gram"] = "auto"
    """How that term is computed; the values are equal."""


class Optim(Section):
    epochs: Annotated[int, Field(ge=1, le=10**6)] = 1000
    """Epochs of training."""
    warmup_epochs: Annotated[float, Field(ge=0, le=10**6)] = 10.0
    """Epochs of linear warm-up, fewer than epochs."""
    global_batch_size: Annotated[int, Field(ge=2, le=2**24)] = 2048
    """Images a step, over all ranks."""
    accumulation_steps: Positive = 1
    """Micro-batches that a rank embeds its part of a step in, one after the other, for want of memory; the
    gradient is that of the whole batch."""
    lr_weights: Rate = 0.2
    """Base rate of the weights; times global_batch_size / 256."""
    lr_biases: Rate = 0.0003
    """Base rate of biases and norms; times global_batch_size / 256."""
    weight_decay: Rate = 1.6e-5
    """Of the weights; biases and norms have none."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of LARS."""
    eta: Rate = 0.001
    """LARS's trust coefficient."""
    final_lr_scale: Annotated[float, Field(ge=0, le=1)] = 0.001
    """What is left of the rates at the end of the cosine."""

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Optim:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be fewer than epochs ({self.epochs})")
        return self


class ProcessOptions(Section):
    """What a rank needs to know to join the others."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of weights, order and augmentations."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Of training and of DALI; auto is gpu where there is one."""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """Of the backbone and the projector; auto is what `accelerate launch` says. The loss is float32 always."""
    timeout_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] = 1800
    """After which a rank that waits for another gives up, and the run ends: nobody waits for ever."""
    deterministic: bool = False
    """Whether torch may take only algorithms that give the same bits every time; slower on a GPU."""
    gradient_as_bucket_view: bool = True
    """Whether gradients lie where the ranks exchange them, which saves a copy of them."""
    static_graph: bool = False
    """Whether the ranks may rely on every step having the same graph; not with optim.accumulation_steps."""


class Run(ProcessOptions):
    output_dir: PathText
    """Where the run writes; a directory of its own."""
    log_every_steps: Positive = 10
    """Steps between two lines of metrics."""
    trackers: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = ["tensorboard"]
    """Who is told the metrics besides metrics.jsonl."""
    checkpoint_every_steps: Positive | None = None
    """Steps between two checkpoints; null is once an epoch."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept."""
    resume: PathText = "latest"
    """latest, never, or the path of a checkpoint of this run."""
    on_world_change: Literal["refuse", "epoch", "continue"] = "refuse"
    """Where a run goes on with another number of ranks than its checkpoint, in the middle of an epoch. epoch goes back
    to the newest checkpoint at an epoch's edge; continue goes on with the same images, and new random states."""
    max_nonfinite_steps: Annotated[int, Field(ge=0)] = 10
    """Steps in a row whose loss or gradient may be NaN or infinite; they are skipped on all ranks."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """How weights and images lie in memory; auto is channels_last on a GPU, and on a CPU by layer. FSDP leaves weights
    contiguous."""
    compile: bool = False
    """Whether torch.compile makes kernels of backbone and projector; the first step takes a minute or more."""
    max_steps: Positive | None = None
    """Ends the run early, for trials; the schedule still spans all epochs."""


class Eval(Section):
    every_epochs: Positive | None = None
    """Epochs between two evaluations of a run that goes on: kNN, a linear probe that learns beside it, and signs that
    need no labels. The run is the same with and without; null is none."""
    online_images: Positive = 2048
    """Images of data.train, and of data.val, that these look at, drawn at random where there are more."""
    probe_lr: Rate = 0.1
    """Rate of that probe."""
    knn: bool = True
    """Whether the run ends with a kNN evaluation on data.val."""
    knn_k: Positive = 20
    """Neighbours that vote."""
    knn_temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.1
    """Of the votes' weights, exp(similarity / temperature)."""
    knn_bank_images: Positive = 50_000
    """Training images that are searched, drawn at random where there are more."""
    batch_size: Positive = 256
    """Images a rank evaluates at a time."""


class Recipe(Section):
    """A whole run. Every key has its official value unless the recipe says otherwise."""

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
                f"run.static_graph: true is not allowed with optim.accumulation_steps {self.optim.accumulation_steps},"
                " whose graph differs within a step; take one of them"
            )
        return self

    @model_validator(mode="after")
    def _views_are_possible(self) -> Recipe:
        self.views.resolved(self.model.in_chans)
        return self

    @property
    def preset(self) -> Preset:
        """The views as they are trained on."""
        return self.views.resolved(self.model.in_chans)

    def batch_size_per_rank(self, world_size: int) -> int:
        """This run's batch on one of world_size ranks, all micro-batches of a step together.

        Raises:
            RecipeError: If the global batch does not divide, or leaves a micro-batch fewer than two images.
        """
        batch, accumulation = self.optim.global_batch_size, self.optim.accumulation_steps
        parts = world_size * accumulation
        shares = f"{world_size} ranks" + (f" x {accumulation} accumulation_steps" if accumulation > 1 else "")
        size, rest = divmod(batch, parts)
        if rest:
            near = ", ".join(str(size) for size in (batch - rest, batch - rest + parts) if size)
            raise RecipeError(
                f"optim.global_batch_size: {batch} does not divide over {shares}; take {near},"
                " or another number of ranks"
            )
        if size < 2:
            raise RecipeError(
                f"optim.global_batch_size: {batch} leaves {size} image to each of {shares}, and BatchNorm"
                f" needs at least 2; take {2 * parts} or more, or fewer ranks"
            )
        return size * accumulation

    def steps_per_epoch(self, n_images: int) -> int:
        """Global batches in an epoch; the incomplete last one is dropped.

        Raises:
            RecipeError: If there is not even one.
        """
        steps = n_images // self.optim.global_batch_size
        if steps == 0:
            raise RecipeError(
                f"optim.global_batch_size: {self.optim.global_batch_size} is more than the {n_images} images of"
                f" data.train {self.data.train}; take a smaller batch"
            )
        return steps

    def resolved_dict(self) -> dict[str, dict[str, Any]]:
        """The recipe with every key spelled out, the views' too; it loads as the same recipe."""
        content = self.model_dump(mode="json")
        views = [asdict(view) for view in self.preset.views]
        for view in views:
            del view["channels"]  # is model.in_chans
        content["views"] = {"preset": self.views.preset, "a": views[0], "b": views[1]}
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(content))
        return plain

    def flat_dict(self) -> dict[str, Any]:
        """The same by whole keys, section.key."""
        sections = self.resolved_dict()
        return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}

    def to_yaml(self) -> str:
        """The resolved recipe as a file."""
        return yaml.safe_dump(self.resolved_dict(), sort_keys=False, default_flow_style=None, width=120)
