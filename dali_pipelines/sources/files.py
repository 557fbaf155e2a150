"""Images that are files of their own: class folders, a flat folder, a list."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.index_cache import Built, Index, cached_index
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.names import Names

# What DALI decodes on both devices; GIF and AVIF are not among them.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm", ".pnm")
# Suffixes of file lists, and what is between their columns.
LIST_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None}


class FileSource(ImageSource):
    """A list of image files.

    Args:
        root: The folder that file names are relative to.
        names: Of the files, with "/" between folders.
        labels: As in ImageSource.
        classes: As in ImageSource.
    """

    kind = "files"

    def __init__(
        self, root: Path, names: Sequence[str], labels: NDArray[np.int64] | None, classes: tuple[str, ...]
    ) -> None:
        super().__init__(names, labels, classes)
        self.root = root

    def place(self, index: int) -> str:
        """The path of the file."""
        return os.path.join(self.root, self.names[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of the file."""
        with open(self.place(index), "rb") as file:
            return np.frombuffer(file.read(), dtype=np.uint8)


def image_folder(root: str | Path) -> FileSource:
    """ROOT/CLASS/**/*.jpg: every sub-folder of the root is a class, as in torchvision's ImageFolder.

    Raises:
        ValueError: If there is no such folder, no class in it, or a class without images.
    """
    root = existing_folder(root)
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."))
    if not classes:
        raise ValueError(f"{root}: no images and no folders of images in it; {_ENDINGS}")
    index = cached_index(f"image folder {root.resolve()}", lambda: _index_of(root, classes))
    labels = index["labels"]
    missing = set(range(len(classes))).difference(np.unique(labels).tolist())
    if missing:
        empty = root / classes[min(missing)]
        raise ValueError(f"{empty}: no images in this class; remove the folder or fill it; {_ENDINGS}")
    return FileSource(root, Names(index["names"], index["ends"]), labels, classes)


def flat_folder(root: str | Path) -> FileSource:
    """ROOT/**/*.jpg: all images at any depth, without labels.

    Raises:
        ValueError: If there is no such folder, or no image in it.
    """
    root = existing_folder(root)
    index = cached_index(f"flat folder {root.resolve()}", lambda: _index_of(root, ("",)))
    if not len(index["ends"]):
        raise ValueError(f"{root}: no images in it; {_ENDINGS}")
    return FileSource(root, Names(index["names"], index["ends"]), None, ())


def file_list(path: str | Path) -> FileSource:
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
    labels: list[str] = []
    names = Names.of(_paths_of(path, labels))
    if not names:
        raise ValueError(f"{path}: no files in it; write a path a line")
    return FileSource(path.parent, names, *numbered(labels))


def _paths_of(path: Path, labels: list[str]) -> Iterator[str]:
    """The paths of a list, one after the other; labels are appended to `labels`."""
    delimiter = LIST_DELIMITERS[path.suffix.lower()]
    columns = 0
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter) if delimiter else ([line.rstrip("\r\n")] for line in file)
        for number, row in enumerate(rows, start=1):
            if not any(row):
                continue
            if not columns:
                columns = len(row)
                if [column.strip().lower() for column in row] in (["path"], ["path", "label"]):
                    continue
            if len(row) != columns or columns > 2 or not row[0]:
                raise ValueError(f"{path}, line {number}: {row!r} must be a path" + ", a label" * (columns == 2))
            labels += map(sys.intern, row[1:])
            yield row[0]


_ENDINGS = f"files that end in {', '.join(IMAGE_SUFFIXES)} count"


def existing_folder(root: str | Path) -> Path:
    """The folder.

    Raises:
        ValueError: If there is none.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ValueError(
            f"{root}: {what}; give a folder of images, a list of them ({', '.join(LIST_DELIMITERS)}), .tar shards,"
            " or a .npz or .npy file of pixels"
        )
    return root


def has_images(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    return any(_is_image(entry.name) and entry.is_file() for entry in os.scandir(folder))


def _is_image(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(IMAGE_SUFFIXES)


def _index_of(root: Path, tops: tuple[str, ...]) -> Built:
    """The images below each of root's sub-folders, whose number is their label; "" is the root itself.

    Sorted, so that every machine numbers them alike.
    """
    labels: list[int] = []
    folders = [str(root)]

    def below() -> Iterator[str]:
        for label, top in enumerate(tops):
            for parent, subfolders, files in os.walk(root / top, followlinks=True):
                subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
                folders.append(parent)
                prefix = os.path.relpath(parent, root).replace(os.sep, "/") + "/"
                prefix = "" if prefix == "./" else prefix
                images = sorted(name for name in files if _is_image(name))
                labels.extend([label] * len(images))
                yield from (prefix + name for name in images)

    names = Names.of(below())
    index: Index = {"names": names.block, "ends": names.ends, "labels": np.array(labels, dtype=np.int64)}
    return Built(index, folders)
