from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
from PIL import Image

from bt_plugin.data.demo_data import write_demo_data
from bt_plugin.errors import UserError
from dali_pipelines import image_folder


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.jpg")):
        total.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return total.hexdigest()


def test_sizes_and_classes(demo_data: Path) -> None:
    train, val = image_folder(demo_data / "train"), image_folder(demo_data / "val")
    assert (len(train), len(val)) == (13 * 120, 13 * 120)
    assert train.classes == val.classes
    assert Image.open(train.place(0)).size == (96, 96)


def test_is_deterministic_and_not_written_twice(demo_data: Path, tmp_path: Path) -> None:
    assert write_demo_data(tmp_path / "again") == 13 * 240
    assert digest(tmp_path / "again") == digest(demo_data)
    assert write_demo_data(tmp_path / "again") == 0


def test_another_folder_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(UserError, match="does not exist yet"):
        write_demo_data(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]


def test_training_and_validation_crops_do_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph whose red channel is its column: no column is in both."""
    import numpy as np

    from bt_plugin.data import demo_data

    columns = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    ramp = np.stack([columns] * 3, axis=2)
    monkeypatch.setattr(demo_data, "_photographs", lambda: {"ramp": ramp})
    write_demo_data(tmp_path / "ramp")
    reds = {
        split: [np.asarray(Image.open(file))[..., 0] for file in (tmp_path / "ramp" / split).rglob("*.jpg")]
        for split in ("train", "val")
    }
    boundary = 255 * 0.7
    assert max(red.max() for red in reds["train"]) <= boundary + 6
    assert min(red.min() for red in reds["val"]) >= boundary - 6


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"pip install 'bt-plugin\[demo\]'"):
        write_demo_data(tmp_path / "data")
