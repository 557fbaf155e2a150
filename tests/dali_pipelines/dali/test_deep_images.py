"""DALI decodes files of more than 8 bits to the levels of our own readers, and gets pixels of all other files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

pytest.importorskip("nvidia.dali")

from nvidia.dali import fn, pipeline_def

from dali_pipelines import Backend, BadImageError, EvalLoader, EvalParams, TwoViewLoader
from dali_pipelines.dali import deep_images, stream
from dali_pipelines.dali.deep_images import Deep, deep_of, files_and_pixels
from dali_pipelines.depth import source as depth_source
from dali_pipelines.depth.source import FullDepthSource
from tests.dali_pipelines.conftest import chosen
from tests.dali_pipelines.depth.deep_files import FIVE, GRAY, RGB, npy, tiff
from tests.dali_pipelines.depth.test_dicom import file
from tests.dali_pipelines.depth.test_full_depth import Contents, opened
from tests.dali_pipelines.depth.test_png import png
from tests.dali_pipelines.test_float_views import preset_of

RGBA = np.dstack([RGB, GRAY])
THIRTEEN = np.dstack([FIVE, FIVE[::-1], FIVE[..., :3]])
FLOAT = (FIVE.astype(np.float32) - 30000) / 7
CPU = Backend("dali", device="cpu", num_threads=1)
EVAL = EvalParams(24, 26, "bilinear")
# Without colors the graph is small.
PLAIN = preset_of(3, size_px=24, jitter_p=0, gray_p=0, blur_p=0, solarize_p=0)


def tiffs(values: NDArray[Any], **options: Any) -> list[bytes]:
    """The same values in all layouts of TIFF that DALI decodes."""
    options = {"photometric": "minisblack", "planarconfig": "contig" if values.ndim == 3 else None, **options}
    layouts: list[dict[str, Any]] = [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"rowsperstrip": 7},
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        *({"compression": codec} for codec in ("zlib", "lzw", "packbits", "deflate", "zstd")),
        {"compression": "lzw", "predictor": True},
    ]
    return [tiff(values, **options, **layout) for layout in layouts]


def jpeg2000(values: NDArray[np.uint16], bits: int, form: str = "JP2") -> bytes:
    encoded: bytes = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits, codecformat=form)
    return encoded


def pages(*images: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for image in images:
            writer.write(image, photometric="rgb")
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Files of one set with the same type and the same used channels, all of which DALI decodes.
DECODED = {
    "gray": [*tiffs(GRAY), png(GRAY[..., None]), jpeg2000(GRAY, 12), jpeg2000(GRAY, 16)],
    "RGB": [
        *tiffs(RGB, photometric="rgb"),
        *tiffs(RGB),
        tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]),
        png(RGB),
        png(RGBA),
        jpeg2000(RGB, 12),
        jpeg2000(RGB, 16),
        jpeg2000(RGBA, 12),
    ],
    "two": tiffs(FIVE[..., :2]),
    "five": tiffs(FIVE),
    "thirteen": tiffs(THIRTEEN),
    "float gray": tiffs(FLOAT[..., 0]),
    "float RGB": [*tiffs(FLOAT[..., :3], photometric="rgb"), *tiffs(FLOAT[..., :3])],
    "float five": tiffs(FLOAT),
}
# Files that DALI reads otherwise or not at all, in a set of RGB.
PLANES = np.ascontiguousarray(np.moveaxis(RGB, 2, 0))
OTHERS = {
    "npy": npy(RGB),
    "raw JPEG 2000": jpeg2000(RGB, 12, "J2K"),
    "interlaced": png(RGB, is_interlaced=True),
    "planar": tiff(PLANES, photometric="rgb", planarconfig="separate"),
    "nodata": tiff(RGB, photometric="rgb", extratags=[(42113, 2, 4, str(RGB[0, 0, 0]), True)]),
    "pages": tiff(np.stack([RGB, RGB // 2]), photometric="rgb"),
    "pages of two sizes": pages(RGB, RGB[:9]),
    "transparent color": png(RGB)[:33] + chunk(b"tRNS", RGB[0, 0].astype(">u2").tobytes()) + png(RGB)[33:],
    "pages that are channels": tiff(PLANES, imagej=True, metadata={"axes": "CYX"}),
    "LZMA": tiff(RGB, photometric="rgb", compression="lzma"),
}


def levels_of(source: FullDepthSource, device: str = "cpu") -> list[NDArray[np.float32]]:
    """Decode all images of a source by DALI, and check which it refuses: none."""
    contents = [source.read_for_dali(index) for index in range(len(source))]

    @pipeline_def(
        batch_size=len(source),
        num_threads=1,
        device_id=0 if device == "gpu" else None,
        prefetch_queue_depth=1,
        enable_conditionals=True,
    )
    def graph() -> Any:
        inputs = fn.external_source(source=lambda: files_and_pixels(contents), num_outputs=2, batch=True)
        return deep_images.levels_of(*inputs, deep_of(source), device)

    levels, shapes, refused = graph().run()
    assert not np.any(refused.as_array())
    levels = levels.as_cpu()
    for index in range(len(source)):
        assert levels.at(index).shape[:2] == tuple(shapes.at(index)[:2])
    return [np.array(levels.at(index)) for index in range(len(source))]


def assert_equal_levels(source: FullDepthSource, device: str = "cpu") -> None:
    """On a CPU every bit is the same; on a GPU the last one may differ."""
    for index, levels in enumerate(levels_of(source, device)):
        expected = source.read(index)
        assert np.ptp(expected) > 100
        np.testing.assert_allclose(levels, expected, rtol=0, atol=0 if device == "cpu" else 3.1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", DECODED)
def test_levels_are_those_of_our_readers(name: str, device: str) -> None:
    """Every file is given to DALI as it is."""
    source = opened(Contents(list(DECODED[name])))
    for index, content in enumerate(DECODED[name]):
        np.testing.assert_array_equal(source.read_for_dali(index), np.frombuffer(content, np.uint8))
    assert_equal_levels(source, device)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("five", {"channels": [3, 2, 1]}),
        ("five", {"channels": [4]}),
        ("float five", {"channels": [1, 2], "value_range": [[-3000.3, 100], [0.5, 0.7]]}),
        ("RGB", {"value_range": [[10.3, 3000], [0, 255], [0, 65535]]}),
        ("RGB", {"value_range": [0, 255]}),
        ("thirteen", {"value_range": "percentiles(3, 90)"}),
    ],
)
def test_channels_and_ranges(name: str, options: dict[str, Any]) -> None:
    assert_equal_levels(opened(Contents(list(DECODED[name])), **options))


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_given_as_pixels(name: str) -> None:
    source = opened(Contents([png(RGB), OTHERS[name]]))
    np.testing.assert_array_equal(source.read_for_dali(1), source.read(1))
    assert_equal_levels(source)


def test_missing_and_inverted_values() -> None:
    """The file of a set's first image does not say what the others have."""
    nodata = tiff(GRAY, extratags=[(42113, 2, 4, str(GRAY[0, 0]), True)])
    source = opened(Contents([png(GRAY[..., None]), nodata, tiff(GRAY, photometric="miniswhite")]))
    first, with_nodata, inverted = levels_of(source)
    assert with_nodata[0, 0, 0] == 0 < first[0, 0, 0]
    np.testing.assert_allclose(inverted, 255 - first, atol=1e-4)


def test_which_sources_are_decoded_by_dali() -> None:
    assert deep_of(opened(Contents([png(RGB)]))) == Deep((np.uint16, (0, 1, 2)), ((0, 4095),) * 3)
    assert deep_of(opened(Contents([tiff(FIVE)]), channels=[3, 1])) == Deep((np.uint16, (3, 1)), ((0, 65535),) * 2)
    for content in (npy(RGB), file("MR_small"), tiff(GRAY.astype(np.int16)), tiff(FLOAT.astype(np.float64))):
        assert deep_of(opened(Contents([content]))) is None
    assert deep_of(Contents([png(RGB)])) is None


@pytest.mark.parametrize(
    ("name", "channels"), [("RGB", None), ("gray", None), ("five", [3, 2, 1]), ("float RGB", None)]
)
def test_views_are_those_of_the_host(name: str, channels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as those of pixels that the host decodes, and the native backend's up to DALI's resize."""
    source = opened(Contents([*DECODED[name][::3], *([OTHERS["npy"]] if name == "RGB" else [])]), channels=channels)
    n, found = len(source), []
    for backend, of in ((CPU, deep_of), (CPU, lambda _: None), (Backend("native", device="cpu", num_threads=1), None)):
        monkeypatch.setattr(stream, "deep_of", of)
        (batch,) = TwoViewLoader(source, n, PLAIN, backend=backend)
        (evaluated,) = EvalLoader(source, n, EVAL, backend=backend)
        found.append([*batch.views, evaluated.images])
    for ours, of_host, native in zip(*found, strict=True):
        assert torch.equal(ours, of_host)
        assert (ours - native).abs().mean() < 0.02 < native.std()


def with_value(values: NDArray[np.float32], channel: int, value: float) -> NDArray[np.float32]:
    result = values.copy()
    result[3, 4, channel] = value
    return result


def corrupted(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(reversed(content[middle : middle + 40])) + content[middle + 40 :]


LARGE = np.zeros((200, 100, 3), np.uint16)
BAD = {
    "cut PNG": ("RGB", png(RGB)[:-600], "truncated"),
    "damaged PNG": ("RGB", corrupted(png(RGB)), "damaged"),
    "cut TIFF": ("RGB", tiff(RGB, photometric="rgb")[:-600], "truncated"),
    "damaged TIFF": ("RGB", corrupted(tiff(RGB, photometric="rgb", compression="zlib")), "Error"),
    "cut JPEG 2000": ("RGB", jpeg2000(RGB, 12)[:-300], "Error"),
    "8 bits": ("RGB", tiff((RGB >> 4).astype(np.uint8), photometric="rgb"), r"3 channel\(s\) of uint8, and the first"),
    "float": (
        "RGB",
        tiff(RGB.astype(np.float32), photometric="rgb"),
        r"of float32, and the first image has 3 of uint16",
    ),
    "more channels": ("RGB", tiff(FIVE), r"5 channel\(s\) of uint16, and the first image has 3 of uint16"),
    "gray": ("RGB", png(GRAY[..., None]), r"1 channel\(s\) of uint16, and the first image has 3"),
    "large PNG": ("RGB", png(LARGE), "100 x 200 pixels are more than max_pixels, 10000"),
    "large TIFF": ("RGB", tiff(LARGE, photometric="rgb"), "100 x 200 pixels are more than max_pixels, 10000"),
    "large JPEG 2000": ("RGB", jpeg2000(LARGE, 12), "100 x 200 pixels are more than max_pixels, 10000"),
    "empty": ("RGB", b"", "the file is empty"),
    "NaN": ("float RGB", tiff(with_value(FLOAT[..., :3], 1, np.nan), photometric="rgb"), "1 of 3360 values are NaN"),
    "infinite": (
        "float RGB",
        tiff(with_value(FLOAT[..., :3], 2, -np.inf), photometric="rgb"),
        "1 of 3360 values are NaN",
    ),
    "uint16": ("float RGB", png(RGB), r"of uint16, and the first image has 3 of float32"),
}


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("kind", BAD)
def test_bad_images_are_replaced_and_named(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """As the native backend does."""
    name, bad, reason = BAD[kind]
    source = opened(Contents([DECODED[name][0], bad, DECODED[name][-1]]), max_pixels=10_000)
    loader = TwoViewLoader(source, 3, PLAIN, backend=chosen(num_threads=1), max_bad_files=1)
    (batch,) = loader
    assert sorted(batch.filenames) == ["0", "2", "2"]
    (message,) = [each for each in caplog.messages if "bad file 1 of at most 1" in each]
    assert message.startswith("image 1: ")
    with pytest.raises(BadImageError, match=f"image 1: .*{reason}"):
        list(EvalLoader(source, 3, EVAL, backend=chosen(num_threads=1)))


def test_nan_in_a_channel_that_is_not_used() -> None:
    content = tiff(with_value(FLOAT, 4, np.nan), photometric="minisblack", planarconfig="contig")
    source = opened(Contents([content]), channels=[3, 0])
    assert source.read_for_dali(0).ndim == 1
    assert_equal_levels(source)


def test_files_that_dali_refuses_are_decoded_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """DALI gets a file with a compression that it does not know."""
    source = opened(Contents([png(RGB), OTHERS["LZMA"]]))
    (expected,) = EvalLoader(source, 2, EVAL, backend=CPU)
    given = source.stored
    monkeypatch.setattr(depth_source, "stored_for_dali", lambda content, request: given)
    assert source.read_for_dali(1).ndim == 1
    (batch,) = EvalLoader(source, 2, EVAL, backend=CPU)
    assert torch.equal(batch.images, expected.images)
