"""A backbone in the format of another program: one file a format, each with SUFFIX, write and usage."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from bt_plugin.errors import WeightsError

if TYPE_CHECKING:
    from bt_plugin.formats.exported import Exported

FORMATS = ("torchvision", "timm", "safetensors", "onnx", "torch-export", "detectron2", "hf")


class Format(Protocol):
    """What a format's module has."""

    SUFFIX: str

    def write(self, exported: Exported, path: Path) -> None:
        """Writes a new file or folder."""

    def usage(self, exported: Exported, path: Path) -> str:
        """How the other program loads it, in code."""


def convert(source: str | Path, to: str, out: str | Path | None = None) -> tuple[Path, str]:
    """Writes the backbone of a run for another program.

    The file or folder is there whole or not at all.

    Args:
        source: A run's directory, its export folder, or a folder made by `import`.
        to: One of FORMATS.
        out: A new file or folder; None is one beside the export, named after backbone and format.

    Returns:
        What was written, and how it is loaded, in code.

    Raises:
        WeightsError: If there is no export, OUT exists, or the format cannot hold this backbone.
        ImportError: If the format needs a package that is not installed; the message says which.
    """
    from bt_plugin.formats.exported import open_exported

    if to not in FORMATS:
        raise WeightsError(f"--to: {to!r} is not allowed; it must be one of {', '.join(FORMATS)}")
    kind = cast(Format, import_module(f"{__name__}.{to.replace('-', '_')}"))
    exported = open_exported(source)
    path = Path(out) if out else exported.folder / f"{exported.architecture}{kind.SUFFIX}"
    _check_new(path)
    # A folder, so that the file has its own name, from which libraries tell its format.
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        kind.write(exported, partial / path.name)
        _check_new(path)
        os.rename(partial / path.name, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path, kind.usage(exported, path)


def _check_new(path: Path) -> None:
    if path.exists():
        raise WeightsError(f"-o: {path} exists, and is not overwritten; name another with -o, or remove it")
