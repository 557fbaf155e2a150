"""Pretrain on crops of 16-bit scans that pydicom ships, and compare kNN accuracies with full depth and with 8 bits.

python benchmarks/scans.py --seeds 0 1 2

A class is a band of one CT, MR or nuclear scan. Training crops come from the left 70 % of a band, validation crops from
the rest, and a crop has 32 to 48 px a side. The crops are TIFF files with the values after DICOM's modality transform,
as signed 16 bits. The runs with 8 bits have the same crops, mapped to 0 to 255 by the same range and rounded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from quick_runs import run
from record import write_record

FOLDER, RUNS = Path("data/scans"), Path("runs/scans")
# Files of pydicom's package, and the number of bands.
SCANS = {"693_J2KI": 3, "J2K_pixelrep_mismatch": 3, "JPEG2000": 4, "examples_overlay": 2, "CT_small": 1}
TRAIN_PER_CLASS, VAL_PER_CLASS = 120, 40
BOUNDARY = 0.7
SIDES_PX = (32, 48)
# The range that the runs with full depth find, for the copies with 8 bits.
PERCENTILES = (0.5, 99.5)
OPTIONS = [
    *("views.preset=barlow_twins_gray", "model.in_chans=1", "eval.every_epochs=12"),
    f"data.value_range='percentiles({PERCENTILES[0]}, {PERCENTILES[1]})'",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    write_scans()
    RUNS.mkdir(parents=True, exist_ok=True)
    rows = [row for seed in arguments.seeds for row in runs_of(seed)]
    names = ("raw", "untrained", "calibrated", "pretrained")
    print(f"{'':<12}{'seed':>5}", *(f"{name:>11}" for name in names))
    for row in rows:
        print(f"{row['name']:<12}{row['seed']:>5}", *(f"{row['knn_top1'][name]:>11.1%}" for name in names))
    print(write_record("scans", {"options": OPTIONS, "runs": rows}))


def runs_of(seed: int) -> list[dict[str, Any]]:
    rows = []
    for name, options in (("full depth", OPTIONS), ("8 bits", OPTIONS[:-1])):
        folder = FOLDER / name.replace(" ", "_")
        changes = [f"data.train={folder}/train", f"data.val={folder}/val", f"run.seed={seed}", *options]
        rows.append({**run(RUNS / f"{folder.name}_{seed}", changes), "name": name, "seed": seed})
    return rows


def write_scans() -> None:
    """Write the crops of all scans with 16 bits, and once more with 8 bits."""
    if FOLDER.exists():
        return
    crops = [crop for name, bands in SCANS.items() for crop in crops_of(name, bands)]
    low, high = np.percentile(np.concatenate([pixels.ravel() for _, pixels in crops]), PERCENTILES)
    for path, pixels in crops:
        levels = np.clip((pixels - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
        for depth, values in (("full_depth", pixels), ("8_bits", levels)):
            file = FOLDER / depth / path
            file.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(file, values)


def crops_of(name: str, bands: int) -> list[tuple[Path, NDArray[np.int16]]]:
    """Return the crops of one scan, with the paths of their files."""
    dataset = pydicom.dcmread(get_testdata_file(f"{name}.dcm", download=False))
    scan = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset).astype(np.int16)
    crops = []
    for number, band in enumerate(np.array_split(scan, bands)):
        middle = int(band.shape[1] * BOUNDARY)
        for split, part, count in (
            ("train", band[:, :middle], TRAIN_PER_CLASS),
            ("val", band[:, middle:], VAL_PER_CLASS),
        ):
            rng = np.random.default_rng((list(SCANS).index(name), number, count))
            for index in range(count):
                side = int(rng.integers(SIDES_PX[0], min(SIDES_PX[1], *part.shape), endpoint=True))
                top, left = (int(rng.integers(0, length - side, endpoint=True)) for length in part.shape)
                path = Path(split) / f"{name}_{number}" / f"{index:03d}.tif"
                crops.append((path, part[top : top + side, left : left + side]))
    return crops


if __name__ == "__main__":
    main()
