"""What is read: image files, with labels or without."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# What DALI decodes on both devices; GIF and AVIF are not among them.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm", ".pnm")
NO_LABEL = -1
# Suffixes of file lists, and what is between their columns.
LIST_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None}


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A list of image files.

    Args:
        root: The folder that file names are relative to.
        files: Names of the files, relative to root, with "/" between folders.
        labels: (len(files),) int64, indices into classes; NO_LABEL throughout where there are none.
        classes: Names of the classes, sorted; empty where there are no labels.
    """

    root: Path
    files: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def has_labels(self) -> bool:
        return bool(self.classes)

    def path(self, index: int) -> str:
        return os.path.join(self.root, self.files[index])

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any file name, label or their order, and not with the place of the folder."""
        digest = hashlib.sha256("\0".join(self.files).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.tobytes())
        return digest.hexdigest()[:16]


def open_source(root: str | Path) -> ImageSource:
    """The file list, the image folder or the flat folder at a path, whichever it is.

    A folder with images of its own is flat; otherwise its sub-folders are the classes.
    """
    if Path(root).suffix.lower() in LIST_DELIMITERS and Path(root).expanduser().is_file():
        return file_list(root)
    root = _existing_folder(root)
    has_images = any(entry.is_file() and _is_image(entry.name) for entry in os.scandir(root))
    return flat_folder(root) if has_images else image_folder(root)


def image_folder(root: str | Path) -> ImageSource:
    """ROOT/CLASS/**/*.jpg: every sub-folder of the root is a class, as in torchvision's ImageFolder.

    Raises:
        ValueError: If there is no such folder, no class in it, or a class without images.
    """
    root = _existing_folder(root)
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."))
    if not classes:
        raise ValueError(f"{root}: no images and no folders of images in it; {_ENDINGS}")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = [f"{name}/{file}" for file in _images_below(root / name)]
        if not found:
            raise ValueError(f"{root / name}: no images in this class; remove the folder or fill it; {_ENDINGS}")
        files += found
        labels += [label] * len(found)
    return ImageSource(root, tuple(files), np.array(labels, dtype=np.int64), classes)


def flat_folder(root: str | Path) -> ImageSource:
    """ROOT/**/*.jpg: all images at any depth, without labels.

    Raises:
        ValueError: If there is no such folder, or no image in it.
    """
    root = _existing_folder(root)
    files = tuple(_images_below(root))
    if not files:
        raise ValueError(f"{root}: no images in it; {_ENDINGS}")
    return ImageSource(root, files, np.full(len(files), NO_LABEL, dtype=np.int64), ())


def file_list(path: str | Path) -> ImageSource:
    """A list of files: .csv or .tsv with a path and, if all have one, a label a line; .txt with a path a line.

    Paths are absolute, or relative to the list's folder. A first line "path" or "path,label" is a header.
    Classes are sorted as numbers if all are whole numbers, else as text. Whether the files are there is
    found out when they are read: among a million, a missing one is a bad file.

    Raises:
        ValueError: If there is no such list, it is empty, or a line has another number of columns.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: does not exist; give a {', '.join(LIST_DELIMITERS)} file")
    delimiter = LIST_DELIMITERS[path.suffix.lower()]
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter)) if delimiter else [[line.rstrip("\r\n")] for line in file]
    numbered = [(number, row) for number, row in enumerate(rows, start=1) if any(row)]
    if numbered and [column.strip().lower() for column in numbered[0][1]] in (["path"], ["path", "label"]):
        del numbered[0]
    if not numbered:
        raise ValueError(f"{path}: no files in it; write a path a line")
    columns = len(numbered[0][1])
    for number, row in numbered:
        if len(row) != columns or columns > 2 or not row[0]:
            raise ValueError(f"{path}, line {number}: {row!r} must be a path" + ", a label" * (columns == 2))
    files = tuple(row[0] for _, row in numbered)
    if columns == 1:
        return ImageSource(path.parent, files, np.full(len(files), NO_LABEL, dtype=np.int64), ())
    names = [row[1] for _, row in numbered]
    classes = sorted(set(names), key=int if all(name.lstrip("-").isdecimal() for name in names) else str)
    number_of = {name: number for number, name in enumerate(classes)}
    labels = np.array([number_of[name] for name in names], dtype=np.int64)
    return ImageSource(path.parent, files, labels, tuple(classes))


_ENDINGS = f"files that end in {', '.join(IMAGE_SUFFIXES)} count"


def _existing_folder(root: str | Path) -> Path:
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"{root}: {what}; give a folder of images, or a list of them ({', '.join(LIST_DELIMITERS)})")
    return root


def _is_image(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(IMAGE_SUFFIXES)


def _images_below(folder: Path) -> Iterator[str]:
    """Names relative to the folder, sorted, so that every machine numbers them alike."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in sorted(names):
            if _is_image(name):
                yield name if below == "." else f"{below}/{name}"
