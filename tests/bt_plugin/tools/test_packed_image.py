"""What a shard stores for an image: its bytes, or the pixels that PIL computes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from bt_plugin.errors import UserError
from bt_plugin.tools.pack import pack
from bt_plugin.tools.packed_image import Conversion, PackedImage, packed_image
from dali_pipelines import array_source
from dali_pipelines.sources import FileSource, flat_folder
from dali_pipelines.sources.pil_modes import to_rgb
from tests.bt_plugin.tools.packs import noise


def one_file(folder: Path, image: Image.Image, name: str, **options: object) -> FileSource:
    folder.mkdir(exist_ok=True)
    image.save(folder / name, **options)
    return flat_folder(folder)


def stored(source: FileSource, conversion: Conversion) -> PackedImage:
    packed = packed_image(source, 0, conversion)
    assert isinstance(packed, PackedImage), packed
    return packed


@pytest.mark.parametrize(
    ("size", "expected"),
    [((320, 240), (64, 48)), ((240, 321), (48, 64)), ((100, 100), (48, 48)), ((49, 300), (48, 293))],
)
def test_reduced_images_are_those_of_pil(
    photographs: list[Image.Image], tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = photographs[0].resize(size)
    packed = stored(one_file(tmp_path, image, "a.png"), Conversion(short_side_px=48, quality=90))
    by_pil = io.BytesIO()
    image.resize(expected, Image.Resampling.BICUBIC).save(by_pil, "JPEG", quality=90, subsampling="4:4:4")
    assert packed.suffix == "jpg"
    assert packed.content == by_pil.getvalue()


def test_the_size_is_that_of_torchvision(tmp_path: Path) -> None:
    from torchvision.transforms import Resize

    for width, height in ((31, 77), (77, 31), (50, 99), (1000, 333)):
        image = Image.fromarray(noise(0, height, width, 3))
        packed = stored(one_file(tmp_path, image, "a.png"), Conversion(short_side_px=30))
        assert Image.open(io.BytesIO(packed.content)).size == Resize(30)(image).size


@pytest.mark.parametrize("suffix", ["tif", "npy", "dcm", "png"])
def test_depth_is_kept(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    deep = np.random.default_rng(0).integers(0, 2**16, (64, 64), dtype=np.uint16)
    if suffix == "tif":
        tifffile.imwrite(file, np.stack([deep] * 5, axis=-1), photometric="minisblack", planarconfig="contig")
    elif suffix == "npy":
        np.save(file, deep)
    elif suffix == "dcm":
        file.write_bytes(Path(get_testdata_file("MR_small.dcm", download=False)).read_bytes())
    else:
        Image.fromarray(deep).save(file)
    source = flat_folder(tmp_path)
    assert stored(source, Conversion()) == (file.read_bytes(), suffix)
    assert "cannot be reduced" in packed_image(source, 0, Conversion(short_side_px=32))
    with pytest.raises(UserError, match=r"--short-side: 32 is not allowed, because .* has more than 8 bits"):
        pack(source, tmp_path / "out", shards=1, conversion=Conversion(32), num_threads=1, max_bad=0)
    file.write_bytes(file.read_bytes()[:1200])
    assert isinstance(packed_image(source, 0, Conversion()), str), "a truncated file is left out"


def test_small_images_are_copied(photographs: list[Image.Image], tmp_path: Path) -> None:
    source = one_file(tmp_path, photographs[0], "a.webp")
    for short in (240, 1000, None):
        packed = stored(source, Conversion(short_side_px=short))
        assert packed == (source.read(0).tobytes(), "webp")


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.jpg"), ("CMYK", "a.jpg"), ("RGBA", "a.png"), ("P", "a.png"), ("1", "a.tif")],
)
def test_modes_are_those_of_the_loader(photographs: list[Image.Image], tmp_path: Path, mode: str, name: str) -> None:
    image = photographs[1]
    source = one_file(tmp_path, image.convert(mode), name)
    packed = stored(source, Conversion(short_side_px=64, quality=100))
    with Image.open(source.place(0)) as opened:
        pixels = Image.fromarray(to_rgb(opened))
    expected = io.BytesIO()
    pixels.resize((85, 64), Image.Resampling.BICUBIC).save(expected, "JPEG", quality=100, subsampling=0)
    assert packed.content == expected.getvalue()


def test_orientation_and_profile_are_dropped_with_the_old_file(photographs: list[Image.Image], tmp_path: Path) -> None:
    """A reader that turns images would turn these too, while the pixels here stay as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    source = one_file(tmp_path, photographs[2], "a.jpg", exif=exif, icc_profile=b"x" * 200)
    assert stored(source, Conversion()).content == source.read(0).tobytes()
    reduced = Image.open(io.BytesIO(stored(source, Conversion(short_side_px=100)).content))
    assert reduced.size == (133, 100)
    assert not reduced.getexif()
    assert "icc_profile" not in reduced.info


def test_pixels_are_reduced_too(tmp_path: Path) -> None:
    source = array_source(noise(0, 1, 40, 60, 3))
    whole, reduced = (packed_image(source, 0, Conversion(short_side_px=short)) for short in (40, 20))
    assert isinstance(whole, PackedImage)
    assert isinstance(reduced, PackedImage)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(whole.content))), source.images[0])
    assert Image.open(io.BytesIO(reduced.content)).size == (30, 20)


def test_reasons(tmp_path: Path) -> None:
    source = one_file(tmp_path, Image.fromarray(noise(0, 8, 8, 3)), "a.gif.png", format="GIF")
    for decodes in (True, False):
        assert packed_image(source, 0, Conversion(decodes=decodes)) == (
            "ValueError: GIF is not supported; convert the image to JPEG or PNG"
        )
    source = one_file(tmp_path, Image.fromarray(noise(0, 8, 8, 3)), "a.gif.png", format="PNG")
    assert "8 x 8 pixels are more than max_pixels, 63" in str(packed_image(source, 0, Conversion(max_pixels=63)))
    Path(source.place(0)).unlink()
    assert str(packed_image(source, 0, Conversion())).startswith("FileNotFoundError")
