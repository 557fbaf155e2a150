"""Write a backbone in the format of another program. Each format is a module with SUFFIX, write and usage."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from bt_plugin.errors import WeightsError
from bt_plugin.runs.new_path import check_new, new_path
from bt_plugin.weights.model_file import find_export, read_model_file

if TYPE_CHECKING:
    from bt_plugin.formats.exported import Exported
    from bt_plugin.models.own_backbone import Factory

FORMATS = ("torchvision", "timm", "safetensors", "onnx", "torch-export", "detectron2", "hf")


class Format(Protocol):
    """The functions that a format's module has."""

    SUFFIX: str

    def write(self, exported: Exported, path: Path) -> None:
        """Write the backbone to a new file or folder."""

    def usage(self, exported: Exported, path: Path) -> str:
        """Return the code with which the other program loads it."""


def convert(
    source: str | Path, to: str, out: str | Path | None = None, *, backbone: str | Factory | None = None
) -> tuple[Path, str]:
    """Write the backbone of a run for another program.

    The file or folder appears only when it is complete.

    Args:
        source: A run's directory, its export folder, or a folder made by `import`.
        to: One of FORMATS.
        out: A new file or folder. None is a file next to the export, named after backbone and format.
        backbone: Function that builds a network of your own, or the function's name, as in load_backbone.

    Returns:
        The path that was written, and the code that loads it.

    Raises:
        WeightsError: If there is no export, the format cannot hold this backbone, or ``backbone`` is needed.
        BackboneError: If your function does not build a backbone.
        FileError: If the output exists or cannot be written.
        ImportError: If the format needs a package that is not installed. The message names it.
    """
    if to not in FORMATS:
        raise WeightsError(f"--to: {to!r} is not allowed; it must be one of {', '.join(FORMATS)}")
    # Errors of names and paths are raised before torch is imported, which takes seconds.
    folder = find_export(Path(source))
    description = read_model_file(folder)
    if out:
        check_new(Path(out), "-o")

    from bt_plugin.formats.exported import Exported

    kind = cast(Format, import_module(f"{__name__}.{to.replace('-', '_')}"))
    exported = Exported(folder, description, backbone)
    path = Path(out) if out else folder / f"{exported.architecture}{kind.SUFFIX}"
    with new_path(path, "-o") as partial:
        kind.write(exported, partial)
    return path, kind.usage(exported, path)
