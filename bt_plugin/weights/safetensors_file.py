"""Tensors in a file by safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from bt_plugin.runs.atomic_file import write_atomically


def save_tensors(state: Mapping[str, Tensor], path: Path, header: Mapping[str, str] | None = None) -> None:
    """Write a state dict, on the CPU, as a whole file with the permissions of any new file.

    safetensors' own function lets only its owner read the file, and leaves a part of it on a full disk.

    Args:
        state: Tensors of any device and memory format.
        path: The file; what is there is replaced.
        header: Entries for the file's header, besides the one that names torch.

    Raises:
        FileError: If the file cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_atomically(path, save(tensors, metadata={"format": "pt", **(header or {})}))
