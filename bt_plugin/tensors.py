"""Tensors in a file by safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(state: Mapping[str, Tensor], path: Path, header: Mapping[str, str] | None = None) -> None:
    """Writes a state dict, on the CPU, with the permissions of any new file.

    safetensors 0.8 lets only its owner read what it writes, so that nobody else could use a run's weights.

    Args:
        state: Of any device and memory format.
        path: The file; what is there is replaced.
        header: More for the file's header, besides that it is torch's.
    """
    path.touch()
    mode = path.stat().st_mode
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(tensors, path, metadata={"format": "pt", **(header or {})})
    path.chmod(mode)
