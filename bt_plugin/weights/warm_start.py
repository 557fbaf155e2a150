"""Start a run from weights that exist, instead of random ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bt_plugin.config.model import Model
from bt_plugin.errors import RecipeError, UserError
from bt_plugin.models.backbone_names import is_own
from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.runtime import collectives
from bt_plugin.weights import hub
from bt_plugin.weights.architecture import difference_of
from bt_plugin.weights.checkpoint_file import read_content, state_of
from bt_plugin.weights.export_folder import read_export
from bt_plugin.weights.key_layouts import split
from bt_plugin.weights.model_file import find_export
from bt_plugin.weights.projectors import to_official
from bt_plugin.weights.read_weights import read_weights
from bt_plugin.weights.tensors import State, check_finite, check_tensors

# Names of model.init that mean the library's own weights for model.backbone.
LIBRARIES = ("torchvision", "timm")


class WarmStart(NamedTuple):
    """The weights that a run started from.

    Args:
        sha256: Hash of the tensors that were used, in hexadecimal.
        used: Description of what was used and what was left out, for the log.
    """

    sha256: str
    used: str


def warm_start(model: BarlowTwins, choice: Model) -> WarmStart:
    """Give a model the weights of model.init. Call it on every rank. Rank 0 downloads them before the others.

    Args:
        model: Model of the recipe, on the CPU. It is changed.
        choice: Section ``model`` of the recipe, whose key ``init`` is set.

    Raises:
        RecipeError: If there are no such weights, they do not fit the model, or they are not those of
            model.init_sha256. The message names the keys.
    """
    assert choice.init is not None, "the recipe has a source"
    backbone, projector, commit = _read(choice, model)
    backbone = _with_channels(backbone, model.backbone)
    used = {f"backbone.{key}": value for key, value in _loaded(model.backbone, backbone, choice).items()}
    said = f"{len(used)} tensors of the backbone"
    if projector is not None and choice.init_projector == "auto" and not _difference(model.projector, projector):
        model.projector.load_state_dict(projector)
        used |= {f"projector.{key}": value for key, value in projector.items()}
        said += ", and the projector"
    else:
        said += ". The projector starts from random weights"
    if commit:
        said += f". They are those of commit {commit}"
    digest = _sha256(used)
    if choice.init_sha256 not in (None, digest):
        raise RecipeError(
            f"model.init_sha256: {choice.init_sha256} is not the hash of the weights in {choice.init}, which is"
            f" {digest}; restore the file, or start a new run without the key"
        )
    return WarmStart(digest, said)


class _Source(NamedTuple):
    """Tensors with the keys of build_backbone, those of a projector if there is one, and the commit if it is known."""

    backbone: State
    projector: State | None = None
    commit: str = ""


def _read(choice: Model, model: BarlowTwins) -> _Source:
    source = str(choice.init)
    if source in LIBRARIES:
        return _Source(collectives.main_first(lambda: _from_library(choice)))
    try:
        if not source.startswith(hub.PREFIX):
            return _from_path(Path(source).expanduser(), choice, model)
        path, commit = collectives.main_first(lambda: hub.download(source))
        return _from_path(path, choice, model)._replace(commit=commit)
    except UserError as error:
        raise RecipeError(f"model.init: {error}") from error


def _from_path(path: Path, choice: Model, model: BarlowTwins) -> _Source:
    if path.is_dir():
        _, backbone, projector = read_export(find_export(path))
        return _Source(backbone, projector)
    if choice.init_strict and not choice.args and not is_own(choice.backbone):
        weights = read_weights(path, choice.backbone)
        return _Source(weights.backbone, weights.projector)
    # Only the model itself knows the keys and shapes of its backbone, which _loaded compares.
    tensors, _ = state_of(read_content(path), path)
    if not _difference(model.backbone, tensors):
        check_tensors(tensors, path)
        check_finite(tensors, path)
        return _Source(tensors)
    parts = split(tensors, path)
    for state in (parts.backbone, parts.projector):
        check_tensors(state, path)
        check_finite(state, path)
    feature_dim = next(layer for layer in model.projector if isinstance(layer, nn.Linear)).in_features
    return _Source(parts.backbone, to_official(parts.projector, feature_dim)[0])


def _from_library(choice: Model) -> State:
    if choice.backbone.split("/")[0] != choice.init:
        raise RecipeError(
            f"model.init: {choice.init} has no weights for {choice.backbone}; use"
            f" {choice.backbone.split('/')[0]}, or the path of a file"
        )
    try:
        backbone = build_backbone(choice.backbone, pretrained=True, args=choice.args)
    except (ValueError, ImportError) as error:
        raise RecipeError(f"model.init: {error}") from error
    except Exception as error:  # the libraries pass on the errors of several HTTP libraries
        raise RecipeError(
            f"model.init: the weights of {choice.backbone} cannot be downloaded ({' '.join(str(error).split())[:200]});"
            " check the network, or download them on another machine, copy the file here, and give its path"
        ) from error
    return backbone.module.state_dict()


def _loaded(backbone: nn.Module, given: State, choice: Model) -> State:
    """Load the tensors that fit, and return them. Others are an error, unless model.init_strict is false."""
    shapes = {key: value.shape for key, value in backbone.state_dict().items()}
    difference = difference_of(given, shapes)
    if difference and choice.init_strict:
        raise RecipeError(
            f"model.init: {choice.init} does not fit model.backbone={choice.backbone} with stem={choice.stem},"
            f" in_chans={choice.in_chans} and args={choice.args}: {difference}. Set these keys to those of the weights,"
            " or model.init_strict=false to use what fits"
        )
    fitting = {key: given[key] for key, shape in shapes.items() if key in given and given[key].shape == shape}
    if not fitting:
        raise RecipeError(
            f"model.init: no tensor of {choice.init} fits model.backbone={choice.backbone} ({difference}); use another"
            " backbone or other weights"
        )
    state = backbone.state_dict()
    backbone.load_state_dict({**state, **{key: value.to(state[key].dtype) for key, value in fitting.items()}})
    return fitting


def _difference(module: nn.Module, given: State) -> str:
    return difference_of(given, {key: value.shape for key, value in module.state_dict().items()})


def _with_channels(given: State, backbone: nn.Module) -> State:
    """Return the weights with a first convolution for the backbone's channels, if it has three of them.

    One channel gets the sum of the three, because it stands for gray. More channels repeat them, scaled so that the
    sum over all channels stays the same.

    Source:
        adapt_input_conv of timm, timm/models/_manipulate.py.
    """
    convs = (f"{path}.weight" for path, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d))
    first = next(convs, "")
    if first not in given or given[first].ndim != 4 or given[first].shape[1] != 3:
        return given
    channels = backbone.state_dict()[first].shape[1]
    weight = given[first].float()
    if channels == 1:
        weight = weight.sum(dim=1, keepdim=True)
    elif channels != 3:
        weight = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
    return {**given, first: weight}


def _sha256(tensors: State) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value: Tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
