"""Images that several tests pack."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bt_plugin.tools.packs import noise
from tests.conftest import write_image


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Nine images in three classes, in several formats, with names that shards do not keep."""
    folder = tmp_path / "odd"
    for number in range(9):
        suffix = ("jpg", "png", "webp", "tif", "bmp", "ppm", "jp2")[number % 7]
        write_image(folder / f"{'cab'[number // 3]} é" / f"im.{number}.{suffix}", noise(number, 20, 30, 3))
    (folder / "c é" / "im.0.jpg").rename(folder / "c é" / "wrong.png")
    return folder
