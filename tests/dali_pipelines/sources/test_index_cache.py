from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from dali_pipelines.sources import flat_folder, image_folder, index_cache
from dali_pipelines.sources.folder_walk import FolderWalk
from dali_pipelines.sources.index_cache import Built, cached_index
from tests.conftest import write_image

PIXELS = np.zeros((8, 8, 3), dtype=np.uint8)
LONG_AGO_S = 1_600_000_000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps whatever is built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "WORTH_KEEPING_S", 0)
    return tmp_path / "cache" / "dali_pipelines"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images in folders that have not changed for years."""
    for name in ("a/1.png", "a/deeper/2.png", "b/3.png"):
        write_image(tmp_path / "data" / name, PIXELS)
    make_old(tmp_path / "data")
    return tmp_path / "data"


def make_old(root: Path) -> None:
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (LONG_AGO_S, LONG_AGO_S))


def no_walk(*_: object, **__: object) -> None:
    raise AssertionError("the folder is read again")


def test_a_kept_index_is_not_made_again(cache: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = image_folder(data)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(FolderWalk, "below", no_walk)
    second = image_folder(data)
    assert list(second.names) == list(first.names) == ["a/1.png", "a/deeper/2.png", "b/3.png"]
    assert second.fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="read again"):
        flat_folder(data)


@pytest.mark.parametrize("name", ["a/new.png", "a/deeper/new.png", "new/new.png"])
def test_a_new_file_at_any_depth_is_seen(cache: Path, data: Path, name: str) -> None:
    image_folder(data)
    write_image(data / name, PIXELS)
    assert name in list(image_folder(data).names)


def test_a_file_that_is_gone_is_seen(cache: Path, data: Path) -> None:
    image_folder(data)
    (data / "a" / "deeper" / "2.png").unlink()
    assert list(image_folder(data).names) == ["a/1.png", "b/3.png"]


def test_what_changed_while_it_was_read_is_not_kept(cache: Path, data: Path) -> None:
    def build() -> Built:
        (data / "late").mkdir()
        return Built({"x": np.zeros(1)}, [str(data)])

    cached_index("key", build)
    assert not list(cache.glob("*"))


def test_what_is_quickly_made_is_not_kept(cache: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    image_folder(data)
    assert not cache.exists()


def test_a_damaged_index_is_made_again(cache: Path, data: Path) -> None:
    image_folder(data)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2]):
        kept.write_bytes(damaged)
        assert len(image_folder(data)) == 3
        assert kept.read_bytes()[:2] == b"PK", "and written again"


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert len(image_folder(data)) == 3
    assert "the index is not kept" in caplog.text
