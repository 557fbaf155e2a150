"""Open the model that is evaluated: a run, weights from a file, or a network by its name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bt_plugin.checkpoints.folder import check_undamaged, checkpoints
from bt_plugin.checkpoints.reader import read_state
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.evaluation.features import RAW_PX, RawPixels
from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.own_backbone import Factory, allowed_backbone
from bt_plugin.runs.directory import RECIPE
from bt_plugin.weights.export_folder import load_backbone
from bt_plugin.weights.model_file import EXPORT, MODEL, find_export, has_export, read_model_file
from bt_plugin.weights.read_weights import read_weights

logger = logging.getLogger(__name__)


class EvaluatedModel(NamedTuple):
    """A backbone with the defaults of its evaluation.

    Args:
        name: Name as the user gave it.
        backbone: Network that maps images (n, C, H, W) to features (n, feature_dim).
        feature_dim: Number of features.
        defaults: Sections of an EvaluationRecipe that the model brings: its view, and the data of a run.
        output_dir: Folder of its results.
    """

    name: str
    backbone: nn.Module
    feature_dim: int
    defaults: dict[str, Any]
    output_dir: Path


def open_model(
    name: str,
    *,
    backbone: str | Factory | None = None,
    pretrained: bool = False,
    seed: int = 0,
    prefix: str | None = None,
) -> EvaluatedModel:
    """Open the model that a name stands for.

    Args:
        name: A run's directory, one of its checkpoints, a folder with an export, a file of weights, torchvision/NAME,
            timm/NAME, or pixels. The features of pixels are the raw pixels.
        backbone: Architecture of a file's weights, if the file does not give it. For a run with a network of the
            user's: its function, or the function's name as module:function.
        pretrained: Whether a network by its name has the weights of its library. Otherwise they are random.
        seed: Seed of random weights, 0 or more.
        prefix: Beginning of the keys of the network, if a file has several networks.

    Raises:
        RecipeError: If there is no model of this name, or it is not complete.
        WeightsError: If the weights cannot be read.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return _from_file(name, path, backbone, prefix)
    if path.is_dir():
        return _from_folder(name, path, backbone)
    if name == "pixels":
        return EvaluatedModel(name, RawPixels(), 3 * RAW_PX**2, {}, Path("eval") / name)
    if name.split("/")[0] in ("torchvision", "timm"):
        return _by_name(name, pretrained, seed)
    raise RecipeError(
        f"{name}: no such model; give a run's directory, a file of weights, torchvision/NAME, timm/NAME or pixels"
    )


def _from_folder(name: str, path: Path, given: str | Factory | None) -> EvaluatedModel:
    if (path / "manifest.json").is_file():
        return _from_checkpoint(name, path, given)
    if not has_export(path):
        found = checkpoints(path)
        remedy = f"the run is not complete; use {found[-1]}" if found else "give a run's directory or its export"
        raise RecipeError(f"{name}: contains no {EXPORT}/{MODEL}; {remedy}")
    folder = find_export(path)
    description = read_model_file(folder)
    view = description.eval_view
    backbone = load_backbone(folder, given)
    run_dir = folder.parent if folder.name == EXPORT else folder
    data = _data_of(run_dir) or {"data": description.data.model_dump(exclude_none=True)}
    defaults = {"view": view.model_dump() if view else {}, **data}
    return EvaluatedModel(name, backbone.module, backbone.feature_dim, defaults, run_dir / "eval")


def _from_checkpoint(name: str, path: Path, given: str | Factory | None) -> EvaluatedModel:
    check_undamaged(path)
    file = path.parent / RECIPE
    recipe = load_recipe(file)
    allowed = allowed_backbone(recipe.model.backbone, given, sha256=recipe.model.backbone_sha256, file=file)
    model = build_model(recipe, backbone=None if isinstance(allowed, str) else allowed)
    state = {"model": model.state_dict()}
    read_state(path, state, alone=True)
    model.load_state_dict(state["model"])
    view = vars(recipe.preset.eval_params())
    feature_dim = model.projector[0].in_features
    assert isinstance(feature_dim, int)
    return EvaluatedModel(
        name, model.backbone, feature_dim, {"view": view, **_data_of(path.parent)}, path.parent / "eval" / path.name
    )


def _data_of(run_dir: Path) -> dict[str, Any]:
    if not (run_dir / RECIPE).is_file():
        return {}
    # Evaluations use every image once. So weights must not get in the way of another data.train.
    data = load_recipe(run_dir / RECIPE).data.model_dump(exclude={"weights"}, exclude_none=True)
    return {"data": data}


def _from_file(name: str, path: Path, backbone: str | Factory | None, prefix: str | None) -> EvaluatedModel:
    if backbone is not None and not isinstance(backbone, str):
        raise RecipeError(f"backbone: {backbone!r} is not allowed for the file {name}; give its name, module:function")
    weights = read_weights(path, backbone, prefix=prefix)
    if weights.dropped:
        logger.warning("%s: these weights are not used: %s", name, "; ".join(weights.dropped))
    module, feature_dim = build_backbone(weights.backbone_name, stem=weights.stem, in_chans=weights.in_chans)
    module.load_state_dict(weights.backbone)
    return EvaluatedModel(name, module, feature_dim, {"view": {"channels": weights.in_chans}}, Path("eval") / path.stem)


def _by_name(name: str, pretrained: bool, seed: int) -> EvaluatedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module, feature_dim = build_backbone(name, pretrained=pretrained)
        except (ValueError, ImportError) as error:
            raise RecipeError(f"{name}: {error}") from error
    return EvaluatedModel(name, module, feature_dim, {}, Path("eval") / name.replace("/", "-"))
