"""The recipe: a YAML file that says everything about a run, checked before anything is read.

Imports neither torch nor DALI, so that a mistake is answered at once.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from dali_pipelines.params import PRESETS, Preset, ViewParams

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the key, the value, the rule and the remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Data(_Section):
    train: Annotated[str, Field(min_length=1)]
    """Folder of the training images: CLASS/*.jpg, or images without classes."""
    val: str | None = None
    """Folder of the validation images, CLASS/*.jpg; without it there is no evaluation."""
    num_threads: Positive | None = None
    """DALI's threads on each rank; null is the rank's share of the cores."""
    prefetch: Positive = 2
    """Batches made ahead."""


class _Changes(_Section):
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


# Every field of ViewParams, each optional: what a recipe changes of a preset.
_ViewChanges: type[_Changes] = create_model(
    "_ViewChanges",
    __base__=_Changes,
    **{name: (hint | None, None) for name, hint in get_type_hints(ViewParams).items() if name != "channels"},
)


class Views(_Section):
    preset: str = "barlow_twins"
    """barlow_twins, or barlow_twins_32 for images of about 32 px (no blur)."""
    both: _ViewChanges = _ViewChanges()  # type: ignore[valid-type]
    """Changes to both views, such as {size_px: 64}."""
    a: _ViewChanges = _ViewChanges()  # type: ignore[valid-type]
    """Changes to the first view alone."""
    b: _ViewChanges = _ViewChanges()  # type: ignore[valid-type]
    """Changes to the second view alone."""

    @model_validator(mode="after")
    def _resolves(self) -> Views:
        self.resolved()
        return self

    def resolved(self, channels: Literal[1, 3] = 3) -> Preset:
        """The preset with the changes."""
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} does not exist; there are {', '.join(PRESETS)}")
        preset = PRESETS[self.preset]
        assert len(preset.views) == 2, "Barlow Twins has two views"
        views = []
        for view, own in zip(preset.views, ("a", "b")):
            changes = self.both.given() | getattr(self, own).given()
            try:
                views.append(replace(view, channels=channels, **changes))
            except ValueError as error:
                raise ValueError(f"{own}.{error}") from error
        return replace(preset, views=tuple(views))


class Model(_Section):
    backbone: str = "torchvision/resnet50"
    """torchvision/NAME or timm/NAME."""
    stem: Literal["standard", "small"] = "standard"
    """small: a ResNet's 3x3 stem without max-pool, for images of 64 px and less."""
    in_chans: Literal[1, 3] = 3
    """Channels of the views; 1 makes them gray."""
    zero_init_residual: bool = True
    """Whether a ResNet's residual branches start as zero."""
    projector: Annotated[list[Positive], Field(min_length=1)] = [8192, 8192, 8192]
    """Widths of the projector's layers; the last is the dimension of the embeddings."""


class Loss(_Section):
    lambda_param: Rate = 5.1e-3
    """Weight of the redundancy-reduction term."""
    form: Literal["auto", "cross", "gram"] = "auto"
    """How that term is computed; the values are equal."""


class Optim(_Section):
    epochs: Positive = 1000
    """Epochs of training."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 10.0
    """Epochs of linear warm-up, fewer than epochs."""
    global_batch_size: Annotated[int, Field(ge=2)] = 2048
    """Images a step, over all ranks."""
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


class Run(_Section):
    output_dir: Annotated[str, Field(min_length=1)]
    """Where the run writes; a directory of its own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, order and augmentations."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Of training and of DALI; auto is gpu where there is one."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Of the backbone and the projector; the loss is float32 always."""
    log_every_steps: Positive = 10
    """Steps between two lines of metrics."""
    checkpoint_every_steps: Positive | None = None
    """Steps between two checkpoints; null is once an epoch."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept."""
    resume: Annotated[str, Field(min_length=1)] = "latest"
    """latest, never, or the path of a checkpoint of this run."""
    max_steps: Positive | None = None
    """Ends the run early, for trials; the schedule still spans all epochs."""


class Eval(_Section):
    knn: bool = True
    """Whether the run ends with a kNN evaluation on data.val."""
    knn_k: Positive = 20
    """Neighbours that vote."""
    knn_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the votes' weights, exp(similarity / temperature)."""
    knn_bank_images: Positive = 50_000
    """Training images that are searched, drawn at random where there are more."""
    batch_size: Positive = 256
    """Images a rank evaluates at a time."""


class Recipe(_Section):
    """A whole run. Every key has its official value unless the recipe says otherwise."""

    data: Data
    views: Views = Views()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    run: Run
    eval: Eval = Eval()

    @property
    def preset(self) -> Preset:
        """The views as they are trained on."""
        return self.views.resolved(self.model.in_chans)

    def batch_size_per_rank(self, world_size: int) -> int:
        """This run's batch on one of world_size ranks.

        Raises:
            RecipeError: If the global batch does not divide, or leaves a rank fewer than two images.
        """
        batch = self.optim.global_batch_size
        per_rank, rest = divmod(batch, world_size)
        if rest:
            near = ", ".join(str(size) for size in (batch - rest, batch - rest + world_size) if size)
            raise RecipeError(
                f"optim.global_batch_size: {batch} does not divide over {world_size} ranks; take {near},"
                " or another number of ranks"
            )
        if per_rank < 2:
            raise RecipeError(
                f"optim.global_batch_size: {batch} leaves {per_rank} image to each of {world_size} ranks, and BatchNorm"
                f" needs at least 2; take {2 * world_size} or more, or fewer ranks"
            )
        return per_rank

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

    def to_yaml(self) -> str:
        """The resolved recipe as a file."""
        return yaml.safe_dump(self.resolved_dict(), sort_keys=False, default_flow_style=None, width=120)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe and applies `section.key=value` overrides to it.

    Raises:
        RecipeError: For a file that cannot be read, and for every key that is wrong.
    """
    try:
        content = _parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}; give the path of a recipe") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: must hold the sections {', '.join(Recipe.model_fields)}")
    for override in overrides or []:
        _apply(content, override)
    try:
        # As JSON, because pydantic's strict mode then takes lists for tuples, and nothing else for another.
        return Recipe.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = "\n".join(f"  {_explained(detail)}" for detail in details)
        raise RecipeError(f"{path}: {len(details)} thing(s) to correct\n{lines}") from error


def _apply(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    *sections, key = path.split(".")
    if not equals or not sections or not key:
        raise RecipeError(f"{override!r}: is not section.key=value, such as optim.epochs=100")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(f"{override!r}: {section} is not a section")
    try:
        content[key] = _parse(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{override!r}: the value is not YAML: {error}") from error


def _explained(detail: ErrorDetails) -> str:
    """One error of pydantic's, with the remedy."""
    where = ".".join(str(part) for part in detail["loc"]) or "recipe"
    if detail["type"] == "extra_forbidden":
        keys = _keys_beside(detail["loc"])
        near = difflib.get_close_matches(str(detail["loc"][-1]), keys, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(keys)}"
        return f"{where}: {detail['input']!r} is given to an unknown key; {remedy}"
    if detail["type"] == "missing":
        return f"{where}: is missing; every recipe must give it"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail["input"], dict):
        return f"{where}: {message}"
    return f"{where}: {detail['input']!r} is not allowed; {message[0].lower()}{message[1:]}"


def _keys_beside(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in loc[:-1]:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel), "only sections have keys"
        model = annotation
    return list(model.model_fields)


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML speaks YAML 1.1, where `no` is false, 1e-6 is a string and a repeated key is silent."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"key {repeated.pop()!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Yaml12Loader)
