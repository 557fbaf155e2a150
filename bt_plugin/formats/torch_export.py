"""Write a program of torch.export for batches of any size. It runs without the model's source."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch

from bt_plugin.errors import WeightsError
from bt_plugin.formats.exported import Exported
from bt_plugin.runs.atomic_file import write_atomically

SUFFIX = ".pt2"


def write(exported: Exported, path: Path) -> None:
    """Write the backbone, load it back and compare the features on random images.

    Raises:
        WeightsError: If the name does not end in .pt2, the backbone cannot be traced, or the features differ.
    """
    if path.suffix != SUFFIX:
        raise WeightsError(f"-o: {path.name} must end in {SUFFIX}, which torch.export requires")
    module = exported.module()
    batch = {0: torch.export.Dim("batch")}
    try:
        program = torch.export.export(module, (exported.images(2),), dynamic_shapes=(batch,))
    except Exception as error:  # torch has no common class for these errors
        raise WeightsError(
            f"--to torch-export: torch cannot trace the backbone: {str(error).splitlines()[0]}. Use --to safetensors"
        ) from error
    content = BytesIO()
    torch.export.save(program, content)
    write_atomically(path, content.getvalue())
    exported.check("torch-export", torch.export.load(path).module())


def usage(exported: Exported, path: Path) -> str:
    """Return the code with which torch loads it."""
    shape = f"(n, {exported.in_chans}, {exported.size_px}, {exported.size_px})"
    return f"features = torch.export.load({str(path)!r}).module()(images)  # {shape} float32, normalized"
