"""Read weights of other programs: find their backbone, and rename its keys to those of torchvision or timm."""

from __future__ import annotations

from pathlib import Path

from bt_plugin.errors import WeightsError
from bt_plugin.models.backbone_names import is_own
from bt_plugin.weights.architecture import Fitted, match_backbone, read_backbone
from bt_plugin.weights.checkpoint_file import read_content, state_of
from bt_plugin.weights.export_folder import build_exported, read_export
from bt_plugin.weights.key_layouts import split
from bt_plugin.weights.model_file import find_export
from bt_plugin.weights.prefixes import find_network, network_under
from bt_plugin.weights.projectors import to_official
from bt_plugin.weights.tensors import UnknownLayoutError, check_finite, check_tensors
from bt_plugin.weights.weights import Weights

OWN = "bt-plugin"


def read_weights(path: str | Path, backbone: str | None = None, *, prefix: str | None = None) -> Weights:
    """Read a checkpoint, a state dict or an export. No code of the file is run.

    Args:
        path: A file of torch.save or safetensors, or a folder that a run or `import` wrote.
        backbone: Name of the backbone, as in build_backbone. Needed unless it is a ResNet of torchvision, or a folder
            with a backbone of a library.
        prefix: Beginning of the network's keys. Needed if a file has several networks.

    Raises:
        WeightsError: If the file cannot be read, contains more than tensors, or does not fit the backbone.
        FileError: If the file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, backbone, prefix)
    content = read_content(path)
    if prefix is not None:
        return _without_projector(*network_under(content, prefix, backbone=backbone, path=path))
    try:
        return _in_known_layout(content, backbone, path)
    except UnknownLayoutError as reason:
        return _without_projector(*find_network(content, backbone, path=path, reason=reason))


def _in_known_layout(content: dict[object, object], backbone: str | None, path: Path) -> Weights:
    tensors, outside = state_of(content, path)
    if backbone is not None and is_own(backbone) and match_backbone(tensors, backbone)[0]:
        # Layouts rename the keys of an nn.Sequential, which may be the network's own keys.
        return _without_projector(read_backbone(tensors, backbone, path=path), outside)
    parts = split(tensors, path)
    fitted = read_backbone(parts.backbone, backbone, path=path)
    check_tensors(parts.projector, path)
    projector, changed = to_official(parts.projector, fitted.feature_dim)
    check_finite(projector or {}, path)
    return Weights(
        kind=parts.kind,
        backbone_name=fitted.name,
        stem=fitted.stem,
        in_chans=fitted.in_chans,
        backbone=fitted.state,
        projector=projector,
        dropped=[*outside, *parts.dropped, *fitted.dropped, *changed],
        feature_dim=fitted.feature_dim,
    )


def _without_projector(fitted: Fitted, dropped: list[str]) -> Weights:
    return Weights(
        kind="state-dict",
        backbone_name=fitted.name,
        stem=fitted.stem,
        in_chans=fitted.in_chans,
        backbone=fitted.state,
        projector=None,
        dropped=[*dropped, *fitted.dropped],
        feature_dim=fitted.feature_dim,
    )


def _read_folder(path: Path, given: str | None, prefix: str | None) -> Weights:
    folder = find_export(path)
    if prefix is not None:
        raise WeightsError(f"--prefix: {folder} stores its backbone in a separate file. Leave the option out")
    export = read_export(folder)
    build_exported(folder, export, given)
    model = export.description.model
    return Weights(
        kind=OWN,
        backbone_name=model.backbone,
        stem=model.stem,
        in_chans=model.in_chans,
        backbone=export.backbone,
        projector=export.projector,
        dropped=[],
        feature_dim=export.description.feature_dim,
    )
