"""Checkpoints made and looked into by tests."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from bt_plugin.checkpoints.folder import CheckpointMetadata
from bt_plugin.checkpoints.state import TrainingState
from bt_plugin.checkpoints.writer import CheckpointWriter
from bt_plugin.optim.lars import LARS

LOADER = {"epoch": 1, "step": 2}


def metadata_of(step: int, world_size: int = 1, loader: dict[str, int] = LOADER) -> CheckpointMetadata:
    return CheckpointMetadata(step, loader, 7, world_size, run_id="a run", best={"loss": (2.5, 3)})


def state_of(model: nn.Module) -> TrainingState:
    """Of a run of one rank, on a CPU."""
    accelerator = Accelerator(cpu=True)
    optimizer = LARS(model.parameters(), lr=0.1)
    prepared, _ = accelerator.prepare(model, optimizer)
    optimizer.make_state()
    return TrainingState(accelerator, prepared, optimizer, timeout=timedelta(seconds=60))


def save(state: TrainingState, run_dir: Path, step: int, keep: int = 3) -> Path:
    write(state, run_dir, metadata_of(step), keep)
    return run_dir / f"checkpoint-{step}"


def write(state: TrainingState, run_dir: Path, of: CheckpointMetadata, keep: int = 3) -> None:
    writer = CheckpointWriter(state, run_dir, keep=keep)
    try:
        writer.write(of)
        writer.settle()
    finally:
        writer.close()


def weights_in(checkpoint: Path, part: str = "model") -> dict[str, Tensor]:
    """The model's, or another part's, whole, whichever ranks wrote them."""
    with tempfile.TemporaryDirectory() as folder:
        dcp_to_torch_save(checkpoint, Path(folder) / "state.pt")
        weights: dict[str, Tensor] = torch.load(Path(folder) / "state.pt", weights_only=False)[part]
    return weights
