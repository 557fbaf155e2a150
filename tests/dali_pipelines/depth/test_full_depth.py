"""full_depth: which sources it returns as they are, what it reads, and what it says."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dali_pipelines import ImageSource, array_source, full_depth, open_source, several_sources
from dali_pipelines.depth.full_depth import sampled_positions
from dali_pipelines.depth.packages import MissingPackageError
from dali_pipelines.depth.source import FullDepthSource
from dali_pipelines.errors import StorageError
from dali_pipelines.sources import Relabeled, Subset
from tests.conftest import write_image
from tests.dali_pipelines.depth.deep_files import FIVE, GRAY, RGB, npy, tiff
from tests.dali_pipelines.depth.test_dicom import changed
from tests.dali_pipelines.depth.test_png import png
from tests.tar_files import write_shard


class Contents(ImageSource):
    """Encoded images in memory. An error among them is raised. It counts what is read."""

    kind = "encoded"

    def __init__(self, contents: list[bytes | Exception]) -> None:
        super().__init__([str(number) for number in range(len(contents))], None, ())
        self.contents = contents
        self.read_indices: list[int] = []

    def read(self, index: int) -> NDArray[np.uint8]:
        self.read_indices.append(index)
        content = self.contents[index]
        if isinstance(content, Exception):
            raise content
        return np.frombuffer(content, dtype=np.uint8)

    def place(self, index: int) -> str:
        return f"image {index}"


def opened(source: ImageSource, **options: Any) -> FullDepthSource:
    result = full_depth(source, **options)
    assert isinstance(result, FullDepthSource)
    return result


def eight_bits(tmp_path: Path, channels: int = 3) -> bytes:
    shape = (20, 30, channels) if channels > 1 else (20, 30)
    write_image(tmp_path / "x.png", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return (tmp_path / "x.png").read_bytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_source_of_8_bits_is_returned_as_it_is(tmp_path: Path, channels: int) -> None:
    source = Contents([eight_bits(tmp_path, channels)] * 3)
    assert full_depth(source) is source
    assert source.read_indices == [0]
    pixels = array_source(np.zeros((3, 8, 8, 3), np.uint8))
    assert full_depth(pixels) is pixels
    deep = full_depth(Contents([png(RGB)]))
    assert full_depth(deep) is deep
    with pytest.raises(ValueError, match="has its value range already"):
        full_depth(deep, value_range=[0, 1])


def test_files_of_every_source(tmp_path: Path) -> None:
    files = {"a/0.npy": npy(FIVE), "a/1.npy": npy(FIVE + 1), "b/2.npy": npy(FIVE[:9])}
    for name, content in files.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    members = {name.replace("/", "_"): content for name, content in files.items()}
    write_shard(tmp_path / "x.tar", members)
    (tmp_path / "list.txt").write_text("".join(f"tree/{name}\n" for name in files))
    for path in ("tree", "x.tar", "list.txt"):
        source = opened(open_source(tmp_path / path), channels=[3, 1])
        assert (len(source), source.channels, source.kind, source.pixel_dtype) == (3, 2, "pixels", np.float32)
        np.testing.assert_allclose(source.read(1), (FIVE + 1)[..., [3, 1]] / 257, rtol=1e-6)
    assert opened(open_source(tmp_path / "tree")).classes == ("a", "b")


def test_gray_is_repeated_and_has_one_pair() -> None:
    source = opened(Contents([tiff(GRAY), tiff(GRAY[:7])]))
    assert source.value_range == ((0, 4095),)
    assert source.found == ("TIFF", np.uint16, 16, 1, GRAY.min(), GRAY.max(), 2, 0)
    pixels = source.read(1)
    assert (pixels.dtype, source.channels) == (np.float32, 3)
    np.testing.assert_allclose(pixels, np.repeat(GRAY[:7, :, None] / 4095 * 255, 3, axis=2), rtol=1e-6)


def test_pixels_are_contiguous() -> None:
    """DALI takes no others. The channels of these are planes, or chosen."""
    planes = tiff(np.ascontiguousarray(np.moveaxis(RGB, 2, 0)), photometric="rgb", planarconfig="separate")
    for source in (opened(Contents([planes])), opened(Contents([tiff(FIVE)]), channels=[3, 1])):
        assert source.read(0).flags.c_contiguous


def test_the_resolved_range_can_be_given_back() -> None:
    contents: list[bytes | Exception] = [npy(FIVE.astype(np.int32) - number) for number in range(5)]
    source = opened(Contents(contents), value_range="percentiles(5, 95)")
    expected = np.percentile(np.concatenate([(FIVE.astype(float) - i).reshape(-1, 5) for i in range(5)]), (5, 95), 0)
    np.testing.assert_allclose(source.value_range, expected.T)
    again = Contents(contents)
    resumed = opened(again, value_range=source.value_range)
    assert again.read_indices == [0]
    assert resumed.value_range == source.value_range
    np.testing.assert_array_equal(resumed.read(3), source.read(3))
    assert resumed.fingerprint == source.fingerprint
    assert opened(Contents(contents), value_range="percentiles(4, 95)").fingerprint != source.fingerprint
    assert opened(Contents(contents), channels=[0, 1]).fingerprint != opened(Contents(contents)).fingerprint


def test_the_sample_is_256_images_evenly_spaced() -> None:
    contents = Contents([npy(np.full((2, 2), 5 + number % 2, np.uint16)) for number in range(1000)])
    source = opened(contents)
    assert (source.found.images, source.found.constant_images) == (256, 256)
    assert sorted(contents.read_indices) == np.linspace(0, 999, 256).astype(int).tolist()
    assert source.value_range == ((0, 1023),)


def test_missing_values_do_not_count_for_the_range() -> None:
    values = np.linspace(5, 9, 1120).reshape(40, 28).astype(np.float32)
    values[:20] = -9999
    empty = np.full_like(values, -9999)
    nodata = {"extratags": [(42113, "s", 0, "-9999", True)]}
    source = opened(Contents([tiff(values, **nodata), tiff(values, **nodata)]), value_range="percentiles(0, 100)")
    assert source.value_range == ((pytest.approx(7, abs=0.01), 9),)
    assert (source.found.least, source.found.most) == (values[20:].min(), 9)
    pixels = source.read(0)
    assert (pixels[:20] == 0).all()
    np.testing.assert_allclose(pixels[20:, :, 0], (values[20:] - values[20, 0]) / (9 - values[20, 0]) * 255, atol=1e-3)
    assert (opened(Contents([tiff(values, **nodata), tiff(empty, **nodata)]), value_range=[0, 1]).read(1) == 0).all()


def test_the_sample_reads_few_groups() -> None:
    source = Contents([b""] * 10_000)
    assert sampled_positions(source).tolist() == np.linspace(0, 9999, 256).astype(int).tolist()
    # 50 groups of 100 images, and 5000 images of their own.
    source.groups = np.concatenate([np.arange(0, 5000, 100), np.arange(5000, 10_000)])
    positions = sampled_positions(source)
    grouped = positions[positions < 5000]
    assert len(np.unique(grouped // 100)) == 16
    assert len(grouped) == len(positions) - len(grouped) == 128
    assert {0, 99, 4900, 4999, 9999} <= set(positions.tolist())
    source.groups = np.arange(0, 10_000, 1000)
    assert len(sampled_positions(source)) == 256


def test_arrays_of_any_type() -> None:
    values = np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32)
    source = opened(array_source(values, np.arange(10) % 2))
    low, high = np.percentile(values, (0.1, 99.9))
    assert source.value_range == ((pytest.approx(low), pytest.approx(high)),)
    expected = np.clip((values[3] - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(source.read(3), np.repeat(expected, 3, 2), atol=1e-3)
    np.testing.assert_array_equal(source.labels, np.arange(10) % 2)
    eight = opened(array_source(FIVE[None].astype(np.uint8)))
    np.testing.assert_array_equal(eight.read(0), FIVE.astype(np.uint8))
    joined = opened(several_sources([array_source(values), array_source(values)]), value_range=[-1, 1])
    assert len(joined) == 20
    with pytest.raises(ValueError, match="read all sources at the same depth"):
        several_sources([array_source(values), several_sources([source])])


def test_wrapping_sources_keep_the_depth() -> None:
    source = opened(array_source(np.arange(1024, dtype=np.uint16).reshape(4, 16, 16, 1), [0, 1, 0, 1]))
    for wrapped in (Subset(source, np.array([2])), Relabeled(source, ("0", "1", "2"))):
        assert (wrapped.kind, wrapped.channels, wrapped.pixel_dtype) == ("pixels", 3, np.float32)
    assert Subset(source, np.array([2])).place(0) == source.place(2)


def test_8_bits_with_a_range_or_channels(tmp_path: Path) -> None:
    content = eight_bits(tmp_path)
    pixels = opened(Contents([content]), value_range=[0, 255]).read(0)
    turned = opened(Contents([content]), channels=[2, 0]).read(0)
    np.testing.assert_array_equal(turned, pixels[..., [2, 0]])
    assert pixels.max() > 250


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        (npy(GRAY), r"the image has 1 channel\(s\) of uint16, and the first image has 3 of uint16; all images must"),
        (npy(RGB.astype(np.float32)), "3 channel.* of float32, and the first image has 3 of uint16"),
        (b"x", "the file is not an image of a known format"),
        (OSError("gone"), "gone"),
    ],
)
def test_other_images_are_bad(other: bytes | Exception, rule: str) -> None:
    source = opened(Contents([npy(RGB), other, npy(RGB)]))
    assert source.found.images == 2
    with pytest.raises((ValueError, OSError), match=rule):
        source.read(1)


def test_windows_are_those_of_each_image() -> None:
    narrow = changed("MR_small", lambda dataset: setattr(dataset, "WindowWidth", 3))
    without = changed("MR_small", lambda dataset: delattr(dataset, "WindowWidth"))
    source = opened(Contents([narrow, changed("MR_small", lambda _: None), without]), value_range="window")
    assert source.value_range == "window"
    assert len(np.unique(source.read(0))) < 5 < len(np.unique(source.read(1)))
    with pytest.raises(ValueError, match="the image has no window, and value_range is window; use auto"):
        source.read(2)
    with pytest.raises(ValueError, match="window is not allowed for image 0, because it has no window"):
        full_depth(Contents([without]), value_range="window")
    with pytest.raises(ValueError, match="window is not allowed for image 0"):
        full_depth(Contents([tiff(GRAY)]), value_range="window")


def test_the_first_good_image_decides(tmp_path: Path) -> None:
    source = opened(Contents([OSError("gone"), tiff(GRAY)[:100], npy(GRAY)]))
    assert source.found.format == "npy"
    damaged = Contents([b"x", OSError("gone")])
    assert full_depth(damaged) is damaged  # the loader names them
    with pytest.raises(
        ValueError, match="none of the first 2 images can be read: image 0: ValueError: the file is not"
    ):
        full_depth(damaged, value_range=[0, 1])
    half = Contents([eight_bits(tmp_path)[:300], npy(GRAY)])
    assert opened(half).found.format == "npy"


def test_pages_that_are_not_read_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    stack = tiff(np.moveaxis(FIVE, 2, 0))
    with caplog.at_level(logging.WARNING, "dali_pipelines"):
        source = opened(Contents([stack] * 3))
        source.read(2)
    assert [record.getMessage().partition(". ")[0] for record in caplog.records] == [
        "image 0: 4 more page(s) are not read"
    ]


@pytest.mark.parametrize("channels", [[], [-1], [0.5], "01", [True], 3, [0] * 5000])
def test_bad_channels_are_named(channels: Any) -> None:
    with pytest.raises(ValueError, match=r"channels: .* is not allowed; give a list of the channels' numbers, from 0"):
        full_depth(Contents([tiff(GRAY)]), channels=channels)


def test_a_channel_that_no_image_has() -> None:
    with pytest.raises(ValueError, match=r"image 0: ValueError: channel 3 does not exist, because the image has 3"):
        full_depth(Contents([npy(RGB)]), channels=[3])


def test_a_storage_that_does_not_answer_passes_through() -> None:
    error = StorageError("s3://x")
    for contents in ([error], [npy(GRAY), error]):
        with pytest.raises(StorageError):
            full_depth(Contents(contents))
    source = opened(Contents([npy(GRAY), npy(GRAY)]))
    source._source.contents[1] = error  # type: ignore[attr-defined]
    with pytest.raises(StorageError):
        source.read(1)


@pytest.mark.parametrize(
    ("package", "content", "extra"),
    [
        ("tifffile", tiff(GRAY), "tiff"),
        ("imagecodecs", tiff(GRAY), "tiff"),
        ("pydicom", changed("MR_small", lambda _: None), "dicom"),
    ],
)
def test_a_missing_package_is_named_at_the_start(
    monkeypatch: pytest.MonkeyPatch, package: str, content: bytes, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    remedy = rf"{package}, which is not installed; pip install 'bt-plugin\[{extra}\]'"
    for contents in ([content], [npy(GRAY), content]):
        with pytest.raises(MissingPackageError, match=rf"image {len(contents) - 1}: .*{remedy}"):
            full_depth(Contents(contents))
