"""DICOM files that come with pydicom are read as pydicom reads them, after the modality transform."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from dali_pipelines.depth.source import levels
from tests.dali_pipelines.depth.deep_files import GRAY, read

MOST_PIXELS = 1_000_000
FILES = [
    *("CT_small", "MR_small", "MR_small_bigendian", "MR_small_implicit", "MR_small_expb", "MR_small_padded"),
    *("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "JPEG2000", "693_J2KI"),
    *("JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "image_dfl", "J2K_pixelrep_mismatch"),
    *("liver_1frame", "rtdose_1frame", "rtdose_rle_1frame", "examples_overlay", "examples_jpeg2k"),
    *("SC_rgb_small_odd", "SC_rgb_rle_16bit", "SC_rgb_rle_32bit", "ExplVR_BigEnd"),
    *("SC_rgb_dcmtk_+eb+cy+np", "SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_jpeg_dcmtk", "SC_rgb_jls_lossy_line"),
    *("SC_ybr_full_422_uncompressed", "examples_rgb_color", "GDCMJ2K_TextGBR", "SC_jpeg_no_color_transform"),
]


def file(name: str) -> bytes:
    path = get_testdata_file(f"{name}.dcm", download=False)
    assert path, f"pydicom has no {name}.dcm"
    return Path(str(path)).read_bytes()


def changed(name: str, change: Callable[[Dataset], object]) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(file(name)))
    change(dataset)
    saved = io.BytesIO()
    dataset.save_as(saved)
    return saved.getvalue()


def compressed(frame: bytes, syntax: pydicom.uid.UID, **tags: Any) -> bytes:
    """MR_small with another frame, of 40 x 28 pixels."""

    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.Rows, dataset.Columns = 40, 28
        for name, value in {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, **tags}.items():
            setattr(dataset, name, value)
        dataset.PixelData = encapsulate([frame])

    return changed("MR_small", change)


@pytest.mark.parametrize("name", FILES)
def test_values_are_pydicoms(name: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(file(name)))
    expected = apply_modality_lut(pixel_array(dataset, index=0), dataset)
    decoded = read(file(name), max_pixels=MOST_PIXELS)
    assert decoded.values.dtype == (np.float64 if dataset.BitsAllocated > 16 else np.float32)
    np.testing.assert_array_equal(decoded.values, expected.reshape(decoded.values.shape).astype(decoded.values.dtype))
    assert decoded.bits == dataset.BitsStored
    if dataset.PixelRepresentation or "ModalityLUTSequence" in dataset:
        assert decoded.bounds is None
    else:
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        assert decoded.bounds == (intercept, (2**dataset.BitsStored - 1) * slope + intercept)


def test_a_palette_becomes_its_colors() -> None:
    dataset = pydicom.dcmread(io.BytesIO(file("examples_palette")))
    expected = apply_color_lut(dataset.pixel_array, dataset)
    decoded = read(file("examples_palette"), max_pixels=MOST_PIXELS)
    np.testing.assert_array_equal(decoded.values, expected)
    assert (decoded.bits, decoded.bounds) == (16, (0, 65535))


@pytest.mark.parametrize("name", ["SC_rgb_rle_2frame", "rtdose", "examples_ybr_color"])
def test_the_first_frame_is_read(name: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(file(name)))
    expected = apply_modality_lut(dataset.pixel_array[0], dataset)
    decoded = read(file(name), max_pixels=MOST_PIXELS)
    np.testing.assert_array_equal(decoded.values.squeeze(), expected.astype(decoded.values.dtype))
    assert decoded.left_out == f"{dataset.NumberOfFrames - 1} more frame(s)"


def test_the_window_and_the_inversion_are_the_standards() -> None:
    for function in ("LINEAR", "LINEAR_EXACT"):
        content = changed("MR_small", lambda dataset: setattr(dataset, "VOILUTFunction", function))  # noqa: B023
        dataset = pydicom.dcmread(io.BytesIO(content))
        stored = apply_modality_lut(dataset.pixel_array, dataset)
        # pydicom maps the window to the range of the stored values.
        shown = (apply_voi_lut(stored, dataset, prefer_lut=False) + 32768) / 65535 * 255
        decoded = read(content)
        assert decoded.window is not None
        np.testing.assert_allclose(levels(decoded, (decoded.window,))[..., 0], shown, atol=1e-4)
    inverted = read(changed("MR_small", lambda dataset: setattr(dataset, "PhotometricInterpretation", "MONOCHROME1")))
    np.testing.assert_array_equal(inverted.values, decoded.values)
    mapped = levels(inverted, (decoded.window,))
    np.testing.assert_allclose(mapped, 255 - levels(decoded, (decoded.window,)), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "window"),
    [
        (lambda dataset: setattr(dataset, "VOILUTFunction", "SIGMOID"), None),
        (lambda dataset: setattr(dataset, "WindowWidth", 1), None),
        (lambda dataset: delattr(dataset, "WindowWidth"), None),
        (
            lambda dataset: (setattr(dataset, "WindowCenter", [50, 1]), setattr(dataset, "WindowWidth", [11, 2])),
            (44.5, 54.5),
        ),
    ],
)
def test_which_window(change: Callable[[Dataset], object], window: tuple[float, float] | None) -> None:
    assert read(changed("MR_small", change)).window == window


def test_the_transform_of_the_first_frame() -> None:
    def of_frames(dataset: Dataset) -> None:
        groups, transform, window = Dataset(), Dataset(), Dataset()
        transform.RescaleSlope, transform.RescaleIntercept = 2, -1000
        window.WindowCenter, window.WindowWidth = 0.5, 101
        groups.PixelValueTransformationSequence, groups.FrameVOILUTSequence = [transform], [window]
        dataset.SharedFunctionalGroupsSequence = [groups]
        del dataset.WindowCenter, dataset.WindowWidth

    decoded = read(changed("MR_small", of_frames))
    plain = read(file("MR_small"))
    np.testing.assert_array_equal(decoded.values, plain.values * 2 - 1000)
    assert decoded.window == (-50, 50)


@pytest.mark.parametrize(("slope", "bounds"), [(2, (-1024, 2 * 4095 - 1024)), (-1, (-1024 - 4095, -1024))])
def test_bits_stored_bound_the_rescaled_values(slope: int, bounds: tuple[float, float]) -> None:
    def rescale(dataset: Dataset) -> None:
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 0, 12, 11
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, -1024

    decoded = read(changed("MR_small", rescale))
    assert (decoded.bits, decoded.bounds) == (12, bounds)


def test_padding_is_missing() -> None:
    plain = read(file("MR_small"))
    value = int(plain.values[3, 4, 0])

    def pad(dataset: Dataset) -> None:
        dataset.add_new("PixelPaddingValue", "SS", value)

    missing = read(changed("MR_small", pad)).missing
    np.testing.assert_array_equal(missing, plain.values == value)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg(bits: int) -> None:
    values = (GRAY.astype(np.uint32) * 16 >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    frame = imagecodecs.ljpeg_encode(values, bitspersample=bits)
    for syntax in (JPEGLossless, JPEGLosslessSV1):
        decoded = read(compressed(frame, syntax, BitsStored=bits, HighBit=bits - 1))
        np.testing.assert_array_equal(decoded.values[..., 0], values)
    signed = read(compressed(frame, JPEGLossless, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=1))
    wrapped = values.astype(np.int32) - (values >= 2 ** (bits - 1)) * np.int32(2**bits)
    np.testing.assert_array_equal(signed.values[..., 0], wrapped)


def test_jpeg_of_12_bits() -> None:
    frame = imagecodecs.jpeg8_encode(GRAY, level=95, bitspersample=12)
    decoded = read(compressed(frame, JPEGExtended12Bit))
    np.testing.assert_array_equal(decoded.values[..., 0], imagecodecs.jpeg8_decode(frame))
    assert decoded.bounds == (0, 4095)


def test_a_deflated_file_is_bounded() -> None:
    content = file("image_dfl")
    begin = 144 + struct.unpack_from("<I", content, 140)[0]
    dataset = zlib.decompress(content[begin:], -zlib.MAX_WBITS)
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = content[:begin] + deflate.compress(dataset + bytes(2**25)) + deflate.flush()
    with pytest.raises(
        ValueError, match=r"the deflated file has more than 16793216 bytes, which max_pixels, 1000, allows"
    ):
        read(bomb, max_pixels=1000)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="has no Rows; it has no image, or is damaged"):
        read(file("rtplan"))
    with pytest.raises(ValueError, match="64 x 64 pixels are more than max_pixels, 4000"):
        read(file("MR_small"), max_pixels=4000)
    with pytest.raises(ValueError, match="the dataset may be corrupted"):
        read(file("MR_truncated"))
    with pytest.raises(ValueError, match="the rescale slope is 0"):
        read(
            changed(
                "MR_small",
                lambda dataset: (setattr(dataset, "RescaleSlope", 0), setattr(dataset, "RescaleIntercept", 0)),
            )
        )
    frame = imagecodecs.ljpeg_encode(np.zeros((30, 28), np.uint8))
    with pytest.raises(ValueError, match=r"has the height and width \(30, 28\), and Rows and Columns are \(40, 28\)"):
        read(compressed(frame, JPEGLossless))
    with pytest.raises(ValueError, match=r"the transfer syntax MPEG2 .* is not read; convert the file"):
        read(compressed(imagecodecs.ljpeg_encode(np.zeros((40, 28), np.uint8)), pydicom.uid.MPEG2MPML))
