"""Write a backbone in the format of another program: one file a format, each with SUFFIX, write and usage."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from bt_plugin.errors import WeightsError
from bt_plugin.runs.new_path import check_new, new_path
from bt_plugin.weights.model_file import find_export, read_model_file

if TYPE_CHECKING:
    from bt_plugin.formats.exported import Exported

FORMATS = ("torchvision", "timm", "safetensors", "onnx", "torch-export", "detectron2", "hf")


class Format(Protocol):
    """The functions that a format's module has."""

    SUFFIX: str

    def write(self, exported: Exported, path: Path) -> None:
        """Write a new file or folder."""

    def usage(self, exported: Exported, path: Path) -> str:
        """Return how the other program loads it, in code."""


def convert(source: str | Path, to: str, out: str | Path | None = None) -> tuple[Path, str]:
    """Write the backbone of a run for another program.

    The file or folder is there whole or not at all.

    Args:
        source: A run's directory, its export folder, or a folder made by `import`.
        to: One of FORMATS.
        out: A new file or folder; None is one beside the export, named after backbone and format.

    Returns:
        What was written, and how it is loaded, in code.

    Raises:
        WeightsError: If there is no export, or the format cannot hold this backbone.
        FileError: If the output exists or cannot be written.
        ImportError: If the format needs a package that is not installed; the message says which.
    """
    if to not in FORMATS:
        raise WeightsError(f"--to: {to!r} is not allowed; it must be one of {', '.join(FORMATS)}")
    # What is wrong with names and paths is told before torch is imported.
    folder = find_export(Path(source))
    description = read_model_file(folder)
    if out:
        check_new(Path(out), "-o")

    from bt_plugin.formats.exported import Exported

    kind = cast(Format, import_module(f"{__name__}.{to.replace('-', '_')}"))
    exported = Exported(folder, description)
    path = Path(out) if out else folder / f"{exported.architecture}{kind.SUFFIX}"
    with new_path(path, "-o") as partial:
        kind.write(exported, partial)
    return path, kind.usage(exported, path)
