"""Find an export and read its model.json. Only this module reads that file."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bt_plugin.errors import RecipeError, WeightsError, file_error
from bt_plugin.models.backbone_names import check_backbone_name, is_own
from dali_pipelines.regular_files import read_regular

EXPORT = "export"
MODEL = "model.json"
BACKBONE = "backbone.safetensors"
PROJECTOR = "projector.safetensors"
# The file of an export has 3 kB. That of an import also lists what was left out.
_MOST_BYTES = 1 << 20
_REMEDY = "Copy the folder again, or export or import the weights again"

_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Pixels = Annotated[int, Field(ge=1, le=65536)]
_Channels = Annotated[int, Field(ge=1, le=4096)]
_Mean = Annotated[list[float], Field(min_length=1, max_length=4096)]
_Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
_Std = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=4096)]


class _Section(BaseModel):
    # Newer versions may add keys.
    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The arguments of build_backbone and build_projector.

    Args:
        backbone: Name of the backbone, as in build_backbone. The installed library must have it. A function of the
            user's is not imported because this file names it.
        backbone_sha256: Hash of the source of a function of the user's.
        stem: Stem, as in build_backbone.
        in_chans: Number of channels of the images.
        args: Further arguments of the backbone, as in build_backbone.
        projector: Widths of the projector's layers, None without a projector.
        init: Weights that the run started from, None for random ones.
        init_sha256: Hash of these weights.
    """

    backbone: str
    stem: Literal["standard", "small"]
    in_chans: _Channels
    args: dict[str, Any] = {}
    backbone_sha256: str | None = None
    projector: Annotated[list[_Count], Field(max_length=1000)] | None = None
    init: str | None = None
    init_sha256: str | None = None


class EvalView(_Section):
    """The view that the features are computed from, as in EvalParams."""

    size_px: _Pixels
    resize_px: _Pixels
    interpolation: Literal["bicubic", "bilinear"]
    channels: _Channels
    mean: _Mean
    std: _Std

    @model_validator(mode="after")
    def _normalizes_every_channel(self) -> EvalView:
        # Gray images are normalized with the averages of three values.
        values = 3 if self.channels == 1 else self.channels
        if len(self.mean) != values or len(self.std) != values:
            raise ValueError(f"mean and std must have {values} values each for channels={self.channels}")
        if self.resize_px < self.size_px:
            raise ValueError(f"resize_px={self.resize_px} must be at least size_px={self.size_px}")
        return self


class DataSection(_Section):
    """How pixels of more than 8 bits, or of other channels than RGB, become values from 0 to 255.

    Args:
        channels: Channels of the images that are used, in this order. None: all.
        value_range_used: Values of each channel that become 0 and 255, or "window". None for RGB of 8 bits.
    """

    channels: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    value_range_used: Literal["window"] | list[_Pair] | None = None


class Source(_Section):
    """The origin of imported weights."""

    kind: str
    file: str


class ModelDescription(_Section):
    """The content of model.json. Values that only a model card shows are not checked further.

    Args:
        method: Name of the method, "barlow_twins" or None if unknown.
        model: Arguments that build the model.
        data: How the pixels are read.
        feature_dim: Number of the backbone's features.
        embedding_dim: Dimension of the embeddings, None without a projector.
        eval_view: View from which features are computed, None if unknown.
        source: Origin of imported weights, None for a run's weights.
        views: Section views of the run's recipe.
        loss: Section loss of the run's recipe.
        optim: Section optim of the run's recipe.
        versions: Versions of packages.
        seed: Seed of the run.
        step: Number of steps that the run has trained.
    """

    method: str | None = None
    model: ModelSection
    data: DataSection = DataSection()
    feature_dim: _Count
    embedding_dim: _Count | None = None
    eval_view: EvalView | None = None
    source: Source | None = None
    views: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    optim: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    seed: int | None = None
    step: int | None = None


def has_export(path: Path) -> bool:
    """Return whether a path is an export, or a run's directory with an export."""
    return (export_folder(path) / MODEL).is_file()


def find_export(path: Path) -> Path:
    """Return the folder with an export's files.

    Args:
        path: A run's directory, its export folder, or a folder made by `import`.

    Raises:
        WeightsError: If there is no whole export.
    """
    folder = export_folder(path)
    if missing := [name for name in (MODEL, BACKBONE) if not (folder / name).is_file()]:
        raise WeightsError(
            f"{path} has no {' and no '.join(missing)}. Give the directory of a finished run, its export folder, or a"
            " folder that bt-plugin import wrote"
        )
    return folder


def export_folder(path: Path) -> Path:
    """Return RUN/export if the path is a run's directory, otherwise the path itself."""
    return path / EXPORT if (path / EXPORT / MODEL).is_file() else path


def read_model_file(folder: Path) -> ModelDescription:
    """Read and check the model.json of an export or an imported folder.

    Raises:
        WeightsError: If the file is damaged or describes a backbone that cannot be built.
        FileError: If the file cannot be opened.
    """
    path = folder / MODEL
    try:
        content = read_regular(path, _MOST_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise WeightsError(f"{path} {error.strerror}. {_REMEDY}") from error
        raise file_error(error, path) from error
    try:
        description = ModelDescription.model_validate_json(content)
    except ValidationError as error:
        raise WeightsError(f"{path}{_first_problem(error)}. {_REMEDY}") from error
    if is_own(description.model.backbone):
        return description
    try:
        check_backbone_name(description.model.backbone, f"{path}: model.backbone")
    except RecipeError as error:
        raise WeightsError(str(error)) from error
    return description


def _first_problem(error: ValidationError) -> str:
    """Describe the first wrong key and the rule. Values and names from the file are shortened and escaped."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return f" is not valid JSON ({problem['msg'].removeprefix('Invalid JSON: ')[:120]})"
    key = ".".join(ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f": the key {key} is missing"
    value = ascii(problem["input"])
    shown = value if len(value) <= 80 else f"{value[:80]}..."
    rule = problem["msg"].removeprefix("Value error, ")
    return f": {key or 'the content'}={shown} is not allowed: {rule[0].lower()}{rule[1:]}"
