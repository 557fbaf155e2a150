"""Write a small data set of real images, cropped from photographs that two Python packages ship."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bt_plugin.errors import UserError, file_error
from bt_plugin.runs.atomic_file import check_output

TRAIN_PER_CLASS = 120
VAL_PER_CLASS = 120
SIZE_PX = 96
# Side of a crop before it is resized. The right part of the narrowest photograph is 115 px wide.
CROP_SIDES_PX = (64, 112)
# Training crops come from the left 70 % of a photograph, validation crops from the rest.
BOUNDARY = 0.7
_FROM_SKIMAGE = (
    "astronaut", "brick", "chelsea", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "retina", "rocket",
)  # fmt: skip
_FROM_SKLEARN = ("china", "flower")


def write_demo_data(folder: str | Path) -> int:
    """Write train/CLASS/*.jpg and val/CLASS/*.jpg. The files are the same each time.

    Each class is one photograph, and its images are crops of 96 x 96 px. Training and validation images come from
    different parts of it. The folder appears only when it is complete.

    Args:
        folder: Folder to write. It must not exist, be empty, or contain the complete demo data.

    Returns:
        Number of images written. 0 if the folder already contains them.

    Raises:
        UserError: If the folder contains other files.
        FileError: If the files cannot be written.
        ImportError: If scikit-image or scikit-learn is not installed.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        if not _is_complete(folder):
            raise UserError(
                f"{folder}: contains files that are not part of the demo data; name a folder that does not exist yet,"
                " or delete this one"
            )
        return 0
    check_output(folder / "train", "folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for number, (name, photo) in enumerate(sorted(_photographs().items())):
            middle = int(photo.shape[1] * BOUNDARY)
            _write_crops(photo[:, :middle], partial / "train" / name, TRAIN_PER_CLASS, (number, 0))
            _write_crops(photo[:, middle:], partial / "val" / name, VAL_PER_CLASS, (number, 1))
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    except OSError as error:
        raise file_error(error, folder) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(_FROM_SKIMAGE + _FROM_SKLEARN) * (TRAIN_PER_CLASS + VAL_PER_CLASS)


def _photographs() -> dict[str, NDArray[np.uint8]]:
    try:
        from skimage import data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ImportError("the demo data needs scikit-image and scikit-learn: pip install 'bt-plugin[demo]'") from error
    loaders: dict[str, Callable[[], Any]] = {name: getattr(data, name) for name in _FROM_SKIMAGE}
    loaders |= {name: partial(load_sample_image, f"{name}.jpg") for name in _FROM_SKLEARN}
    return {name: np.asarray(Image.fromarray(load()).convert("RGB")) for name, load in loaders.items()}


def _write_crops(part: NDArray[np.uint8], folder: Path, count: int, seed: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        side = int(rng.integers(CROP_SIDES_PX[0], CROP_SIDES_PX[1], endpoint=True))
        top = int(rng.integers(0, part.shape[0] - side, endpoint=True))
        left = int(rng.integers(0, part.shape[1] - side, endpoint=True))
        crop = Image.fromarray(part[top : top + side, left : left + side])
        crop.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg", quality=90)


def _is_complete(folder: Path) -> bool:
    return all(
        len(list((folder / split / name).glob("*.jpg"))) == count
        for split, count in (("train", TRAIN_PER_CLASS), ("val", VAL_PER_CLASS))
        for name in _FROM_SKIMAGE + _FROM_SKLEARN
    )
