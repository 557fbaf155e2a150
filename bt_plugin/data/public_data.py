"""The public data sets that `get` writes: where torchvision finds them, their terms, and their files for recipes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from bt_plugin.runs.atomic_file import sync

_STL10_SIZE_PX = 96
# Images that are turned into rows of pixels together.
_TOGETHER = 1000


class Archive(NamedTuple):
    """The file of a data set: its URL, the name that torchvision gives it, and its MD5 checksum."""

    url: str
    name: str
    md5: str


@dataclass(frozen=True)
class PublicData:
    """A public data set.

    Args:
        title: Its name for people.
        page: Web page of its authors.
        terms: Its license, or what its authors ask for. Full sentences.
        recipe: Bundled recipe that trains on it.
        archive_gib: Size of the file that is downloaded, in GiB, rounded up.
        written_gib: Space for what is extracted and written from that file, in GiB, rounded up.
        train: Names of the files or folders for data.train.
        evaluation: Names of the files or folders with labels, for training and for evaluating a classifier.
        archive: Returns torchvision's own URL and checksum.
        write: Extracts the archive in its first folder, and writes the contents into its second one.
    """

    title: str
    page: str
    terms: str
    recipe: str
    archive_gib: float
    written_gib: float
    train: tuple[str, ...]
    evaluation: tuple[str, str]
    archive: Callable[[], Archive]
    write: Callable[[Path, Path], None]

    @property
    def contents(self) -> set[str]:
        """Names of all files and folders that a recipe reads."""
        return {*self.train, *self.evaluation}

    def keys(self, folder: Path) -> str:
        """Return the changes to a recipe that select this data set in a folder.

        Args:
            folder: Folder of the data set.
        """
        if len(self.train) == 1:
            return f"data.train={folder / self.train[0]} data.val={folder / self.evaluation[1]}"
        return f"'data.train=[{', '.join(str(folder / each) for each in self.train)}]'"


def _torchvision(name: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, name)


def _class_archive(name: str) -> Archive:
    found = _torchvision(name)
    return Archive(found.url, found.filename, found.tgz_md5)


def _imagenette_archive(size: str) -> Archive:
    url, md5 = _torchvision("Imagenette")._ARCHIVES[size]
    return Archive(url, url.rsplit("/", 1)[1], md5)


def _write_cifar(name: str, work: Path, output: Path) -> None:
    for split in ("train", "test"):
        data = _torchvision(name)(work, train=split == "train", download=split == "train")
        _save(output / f"{split}.npz", data.data, data.targets, data.classes)


def _write_stl10(work: Path, output: Path) -> None:
    for split in ("train", "test"):
        data = _torchvision("STL10")(work, split=split, download=split == "train")
        _save(output / f"{split}.npz", data.data.transpose(0, 2, 3, 1), data.labels, data.classes)
    # All at once would need 3 GB of memory. An image is stored by channels, and each channel by columns.
    stored = np.memmap(work / data.base_folder / "unlabeled_X.bin", np.uint8, "r")
    raw = stored.reshape(-1, 3, _STL10_SIZE_PX, _STL10_SIZE_PX)
    shape = (len(raw), _STL10_SIZE_PX, _STL10_SIZE_PX, 3)
    pixels = open_memmap(output / "unlabeled.npy", "w+", np.uint8, shape)
    for begin in range(0, len(raw), _TOGETHER):
        pixels[begin : begin + _TOGETHER] = raw[begin : begin + _TOGETHER].transpose(0, 3, 2, 1)
    pixels.flush()


def _write_imagenette(size: str, work: Path, output: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    archive = work / _imagenette_archive(size).name
    extract_archive(archive, work)
    for split in ("train", "val"):
        os.replace(work / archive.stem / split, output / split)


def _save(path: Path, images: NDArray[np.uint8], labels: Any, classes: list[str]) -> None:
    np.savez(path, images=images, labels=np.asarray(labels, np.int64), classes=np.array(classes))
    sync(path)


_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR_TERMS = (
    "Its page states no license. It asks to cite Alex Krizhevsky, Learning Multiple Layers of Features from Tiny"
    " Images, 2009."
)
_STL10_TERMS = (
    "Its page states no license. The images come from ImageNet. The page asks to cite Adam Coates, Honglak Lee and"
    " Andrew Y. Ng, An Analysis of Single Layer Networks in Unsupervised Feature Learning, AISTATS 2011."
)
_IMAGENETTE_TERMS = (
    "The repository has the Apache License 2.0. The images come from ImageNet, whose terms allow non-commercial"
    " research and education."
)


def _cifar(title: str, recipe: str, name: str) -> PublicData:
    return PublicData(
        title,
        _CIFAR_PAGE,
        _CIFAR_TERMS,
        recipe,
        archive_gib=0.16,
        written_gib=0.4,
        train=("train.npz",),
        evaluation=("train.npz", "test.npz"),
        archive=partial(_class_archive, name),
        write=partial(_write_cifar, name),
    )


def _imagenette(title: str, size: str, recipe: str, *, archive_gib: float, written_gib: float) -> PublicData:
    return PublicData(
        title,
        "https://github.com/fastai/imagenette",
        _IMAGENETTE_TERMS,
        recipe,
        archive_gib=archive_gib,
        written_gib=written_gib,
        train=("train",),
        evaluation=("train", "val"),
        archive=partial(_imagenette_archive, size),
        write=partial(_write_imagenette, size),
    )


PUBLIC_DATA = {
    "cifar10": _cifar("CIFAR-10", "cifar10_resnet18", "CIFAR10"),
    "cifar100": _cifar("CIFAR-100", "cifar100_resnet18", "CIFAR100"),
    "stl10": PublicData(
        "STL-10",
        "https://cs.stanford.edu/~acoates/stl10/",
        _STL10_TERMS,
        "stl10_resnet18",
        archive_gib=2.5,
        written_gib=6.0,
        train=("unlabeled.npy", "train.npz"),
        evaluation=("train.npz", "test.npz"),
        archive=partial(_class_archive, "STL10"),
        write=_write_stl10,
    ),
    "imagenette": _imagenette("Imagenette", "full", "imagenette_vit_small16", archive_gib=1.5, written_gib=1.7),
    "imagenette-320": _imagenette(
        "Imagenette, 320 px", "320px", "imagenette_resnet18", archive_gib=0.4, written_gib=0.5
    ),
    "imagenette-160": _imagenette(
        "Imagenette, 160 px", "160px", "imagenette_resnet18", archive_gib=0.1, written_gib=0.2
    ),
}
