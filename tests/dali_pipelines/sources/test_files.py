"""Files of images, each read by its path."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_pipelines import EvalLoader, EvalParams
from dali_pipelines.sources import FileSource, flat_folder
from dali_pipelines.sources.labels import numbered
from tests.conftest import write_image
from tests.dali_pipelines.conftest import chosen

PIXELS = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4, np.ones((4, 4, 3), np.uint8))


@pytest.mark.usefixtures("each_backend")
def test_every_suffix_is_read(tmp_path: Path) -> None:
    """Of all formats, losslessly or as JPEG."""
    for suffix, form in (
        *((suffix, "JPEG") for suffix in (".jpg", ".JPEG", ".jpe", ".jfif", ".mpo")),
        *((suffix, "JPEG2000") for suffix in (".jp2", ".j2k", ".jpx", ".jpf")),
        *((".png", "PNG"), (".bmp", "BMP"), (".dib", "DIB"), (".tif", "TIFF"), (".webp", "WEBP"), (".ppm", "PPM")),
    ):
        Image.fromarray(PIXELS).save(tmp_path / f"x{suffix}", form)
    source = flat_folder(tmp_path)
    assert len(source) == 15
    (batch,) = EvalLoader(source, 15, EvalParams(32, 32, mean=(0, 0, 0), std=(1, 1, 1)), backend=chosen())
    assert (255 * batch.images - PIXELS.mean()).mean(dim=(1, 2, 3)).abs().max() < 1


def make_socket(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.mkdir(), "a folder"),
        (make_socket, "(?i)a socket|no such device"),
    ],
)
def test_only_regular_files_are_read_and_at_once(
    tmp_path: Path, make: object, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("x.jpg"))  # type: ignore[operator]
    source = FileSource(tmp_path, ["x.jpg"], labels=None, classes=())
    found: list[Exception] = []

    def read() -> None:
        try:
            source.read(0)
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits"
    with pytest.raises(OSError, match=what):
        raise found[0]


def test_a_file_that_no_decoder_takes_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "x.jpg", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="1099511627776 bytes, and at most 2147483647 are read"):
        flat_folder(tmp_path).read(0)


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", PIXELS)
    monkeypatch.chdir(tmp_path)
    source = FileSource(Path(), ["a.png"], labels=None, classes=())
    monkeypatch.chdir("/")
    assert source.place(0) == str(tmp_path / "a.png")


def test_a_way_through_a_link_is_kept(tmp_path: Path) -> None:
    """After a link, ".." is the parent of where it leads."""
    write_image(tmp_path / "far/images/a.png", PIXELS)
    (tmp_path / "far/deep").mkdir()
    (tmp_path / "near").symlink_to("far/deep")
    assert len(flat_folder(tmp_path / "near/../images").read(0)) > 0


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "-3"], ("-3", "9", "10")),
        (["--5", "4"], ("--5", "4")),
        (["-", "4"], ("-", "4")),
        (["1", "01", "001", "1"], ("001", "01", "1")),
        (["²", "1"], ("1", "²")),
        (["٣", "2", "10"], ("2", "٣", "10")),
        (["9" * 5000, "1"], ("1", "9" * 5000)),
        (["1" + "0" * 900, "9" * 900], ("9" * 900, "1" + "0" * 900)),
        (["10", "9", "x"], ("10", "9", "x")),
    ],
)
def test_the_order_of_classes(labels: list[str], classes: tuple[str, ...]) -> None:
    numbers, found = numbered(labels)
    assert found == classes
    assert numbers is not None
    assert [found[number] for number in numbers] == labels
