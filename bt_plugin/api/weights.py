"""Load, export and import the weights of a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bt_plugin.errors import WeightsError
from bt_plugin.models.backbone_names import check_backbone_name
from bt_plugin.runs.new_path import check_new

if TYPE_CHECKING:
    from bt_plugin.models.backbones import Backbone
    from bt_plugin.models.own_backbone import Factory
    from bt_plugin.weights.weights import Weights


class ExportedFile(NamedTuple):
    """A backbone that was written for another program.

    Args:
        path: File or folder.
        usage: Code with which the other program loads it.
    """

    path: Path
    usage: str


class ImportedWeights(NamedTuple):
    """Weights of another program that were imported.

    Args:
        folder: Folder with the layout of a run's export.
        weights: The weights, and what is known about them.
    """

    folder: Path
    weights: Weights


def load_backbone(run: str | Path, *, backbone: str | Factory | None = None) -> Backbone:
    """Return the trained backbone of a run.

    Args:
        run: Directory of a run, its export folder, or a folder that import_weights wrote.
        backbone: Function that builds the run's network, or its name as module:function. Needed for a run of your own
            network, because a file alone imports nothing.

    Returns:
        The network as ``module``, in training mode on the CPU, and its number of features as ``feature_dim``.

    Raises:
        WeightsError: If there is no export, or it is damaged.

    Examples:
        >>> backbone, feature_dim = bt_plugin.load_backbone("runs/quickstart")
    """
    from bt_plugin.weights.export_folder import load_backbone as load
    from bt_plugin.weights.model_file import find_export

    return load(find_export(Path(run)), backbone)


def export(
    run: str | Path, to: str, output: str | Path | None = None, *, backbone: str | Factory | None = None
) -> ExportedFile:
    """Write the backbone of a run for another program.

    Args:
        run: Directory of a run, its export folder, or a folder that import_weights wrote.
        to: Format: torchvision, timm, safetensors, onnx, torch-export, detectron2 or hf.
        output: New file, or new folder for hf. Default: a file in the export folder.
        backbone: As for load_backbone.

    Raises:
        WeightsError: If there is no export, or the format cannot hold this backbone.

    Examples:
        >>> path, usage = bt_plugin.export("runs/quickstart", "torchvision", "backbone.pth")
    """
    if isinstance(backbone, str):
        check_backbone_name(backbone, "--backbone")

    from bt_plugin.formats import convert

    return ExportedFile(*convert(run, to, output, backbone=backbone))


def import_weights(
    file: str | Path, output: str | Path | None = None, *, backbone: str | None = None, prefix: str | None = None
) -> ImportedWeights:
    """Convert weights of another program into the layout of a run's export.

    Args:
        file: Checkpoint of the official code, Lightly or solo-learn, or a state dict of torchvision or timm.
        output: New folder. Default: imported/NAME.
        backbone: torchvision/NAME or timm/NAME, if the keys do not tell it.
        prefix: Beginning of the network's keys, if a file has several networks.

    Raises:
        WeightsError: If the file cannot be read, or does not fit the backbone.
        FileError: If the folder exists or cannot be written.

    Examples:
        >>> imported = bt_plugin.import_weights("resnet18.pth")
        >>> backbone, _ = bt_plugin.load_backbone(imported.folder)
    """
    source = Path(file)
    folder = Path(output or Path("imported", source.stem))
    if backbone is not None:
        check_backbone_name(backbone, "--backbone")
    check_new(folder, "-o")

    from bt_plugin.weights.export_folder import write_imported_export
    from bt_plugin.weights.model_file import export_folder
    from bt_plugin.weights.read_weights import OWN, read_weights

    weights = read_weights(source, backbone, prefix=prefix)
    if weights.kind == OWN:
        raise WeightsError(
            f"{source} needs no import, because {export_folder(source)} already has this layout. Use that path instead"
        )
    write_imported_export(weights, folder, source)
    return ImportedWeights(folder, weights)
