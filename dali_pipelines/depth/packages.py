"""Import the packages that read TIFF, JPEG 2000 and DICOM, which are not always installed."""

from __future__ import annotations

import importlib
from typing import Any


class MissingPackageError(ValueError):
    """The error of an image whose format needs a package that is not installed. The image is not to blame."""


def import_tifffile() -> Any:
    """Import tifffile, and imagecodecs for its compressions.

    Raises:
        MissingPackageError: If one is not installed; the message says how to install it.
    """
    _imported("imagecodecs", "TIFF images of more than 8 bits or of other numbers of channels", "tiff")
    return _imported("tifffile", "TIFF images of more than 8 bits or of other numbers of channels", "tiff")


def import_imagecodecs() -> Any:
    """Import imagecodecs.

    Raises:
        MissingPackageError: If it is not installed; the message says how to install it.
    """
    return _imported("imagecodecs", "JPEG 2000 images of more than 8 bits", "tiff")


def import_pydicom() -> Any:
    """Import pydicom, with its module `pixels`.

    Raises:
        MissingPackageError: If it is not installed; the message says how to install it.
    """
    for module in ("pydicom.encaps", "pydicom.pixels"):
        _imported(module, "DICOM images", "dicom")
    return _imported("pydicom", "DICOM images", "dicom")


def import_decoder(module: str) -> Any:
    """Import the decoder of a compressed DICOM file.

    Args:
        module: Name of the module.

    Raises:
        MissingPackageError: If it is not installed; the message says how to install it.
    """
    return _imported(module, "DICOM images of this transfer syntax", "dicom")


def _imported(module: str, images: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{images} need {module.partition('.')[0]}, which is not installed; pip install 'bt-plugin[{extra}]'"
        ) from error
