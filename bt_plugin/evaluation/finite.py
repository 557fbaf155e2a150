"""Refuse features and outputs that are not finite. NaN would otherwise count as the nearest image or as a class."""

from __future__ import annotations

from torch import Tensor

from bt_plugin.errors import DivergenceError


def nonfinite_rows(values: Tensor) -> int:
    """Return the number of rows that contain NaN or infinity.

    Shape:
        - values: (N, ...) floating point.
    """
    return int((~values.flatten(start_dim=1).isfinite()).any(dim=1).sum())


def check_features(values: Tensor) -> None:
    """Raise if features are not finite. Call it with the features of all ranks, so that every rank raises.

    Shape:
        - values: (N, ...) floating point.

    Raises:
        DivergenceError: If a value is NaN or infinite.
    """
    if bad := nonfinite_rows(values):
        raise DivergenceError(
            f"features of {bad} of {len(values)} images are NaN or infinite, so they cannot be evaluated; use another"
            " checkpoint, or run.mixed_precision=no"
        )


def check_outputs(bad: int, images: int, *, key: str) -> None:
    """Raise if outputs of a classifier were not finite. Call it with sums over all ranks, so that every rank raises.

    Args:
        bad: Number of images whose outputs were not finite.
        images: Number of all images.
        key: Recipe key of the learning rates to lower.

    Raises:
        DivergenceError: If there were any.
    """
    if bad:
        raise DivergenceError(
            f"{key}: the outputs of the trained classifier are NaN or infinite for {bad} of {images} images; use lower"
            " learning rates"
        )
