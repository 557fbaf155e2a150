"""The summary of a finished run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bt_plugin.runs.atomic_file import write_atomically
from bt_plugin.runs.directory import SUMMARY


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of a finished run, as in RUN/summary.json.

    Args:
        run: Directory of the run.
        step: Number of steps done.
        epochs: Number of epochs done. With run.max_steps it may be a fraction.
        world_size: Number of ranks.
        device: Type of the device, cpu or cuda.
        mixed_precision: Precision of the run: no, fp16 or bf16.
        best: Best values during the run by metric, each with its value and step.
        knn_top1: Accuracy of kNN by network, as fractions of 1. None if eval.knn is false or labels are missing.
        linear_top1: Accuracy of a linear classifier by network, as fractions of 1. None without eval.every_epochs or
            labels.
        val_images: Number of validation images behind these accuracies. None if there are none.
        view_retrieval_top1: Share of images whose other view is the nearest one, by network, as fractions of 1. None
            without eval.every_epochs.
        view_retrieval_images: Number of images among which view retrieval searches. None without eval.every_epochs.
        rankme: RankMe by network. None without eval.every_epochs.
        effective_rank: Effective rank by network. None without eval.every_epochs.
        lidar: LiDAR by network. None without eval.every_epochs.
        versions: Versions of packages.
    """

    run: str
    step: int
    epochs: float
    world_size: int
    device: str
    mixed_precision: str
    best: dict[str, dict[str, float]]
    knn_top1: dict[str, float] | None
    linear_top1: dict[str, float] | None
    val_images: int | None
    view_retrieval_top1: dict[str, float] | None
    view_retrieval_images: int | None
    rankme: dict[str, float] | None
    effective_rank: dict[str, float] | None
    lidar: dict[str, float] | None
    versions: dict[str, str]

    @property
    def run_dir(self) -> Path:
        """Directory of the run."""
        return Path(self.run)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        return asdict(self)

    def write(self) -> None:
        """Write RUN/summary.json."""
        write_atomically(self.run_dir / SUMMARY, json.dumps(self.to_dict(), indent=2) + "\n")
