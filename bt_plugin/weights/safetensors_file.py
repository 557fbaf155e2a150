"""Write tensors to a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from bt_plugin.runs.atomic_file import write_atomically


def save_tensors(state: Mapping[str, Tensor], path: Path, header: Mapping[str, str] | None = None) -> None:
    """Write a state dict as a complete file with the usual permissions of a new file.

    safetensors' own function lets only the owner read the file, and leaves a partial file on a full disk.

    Args:
        state: Tensors of any device and memory format.
        path: The file. An existing file is replaced.
        header: Further entries for the file's header. One entry already names torch.

    Raises:
        FileError: If the file cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_atomically(path, save(tensors, metadata={"format": "pt", **(header or {})}))
