"""Small archives in the layouts of public data sets, and torchvision's constants that lead to them."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray
from PIL import Image

RNG = np.random.default_rng(0)
# Images of training and test.
COUNTS = {"train": 10, "test": 4}
UNLABELED = 7
IMAGENETTE = ("n01440764", "n02102040")


def pixels(count: int, size_px: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _cifar(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[bytes, dict[str, Any]]:
    found = getattr(torchvision.datasets, name)
    classes = ["airplane", "automobile", "bird"] if name == "CIFAR10" else ["apple", "aquarium_fish", "baby"]
    key = "labels" if name == "CIFAR10" else "fine_labels"
    expected = {}
    files = {found.meta["filename"]: pickle.dumps({found.meta["key"]: classes})}
    for split, listed in (("train", found.train_list), ("test", found.test_list)):
        count = COUNTS[split] * len(listed)
        images, labels = pixels(count, 32), np.arange(count) % len(classes)
        expected[split] = (images, labels, classes)
        for part, numbers in zip(listed, np.split(np.arange(count), len(listed))):
            rows = images[numbers].transpose(0, 3, 1, 2).reshape(len(numbers), -1)
            files[part[0]] = pickle.dumps({"data": rows, key: labels[numbers].tolist()})
    for attribute in ("train_list", "test_list"):
        listed = [[part, md5(files[part])] for part, _ in getattr(found, attribute)]
        monkeypatch.setattr(found, attribute, listed)
    monkeypatch.setattr(found, "meta", found.meta | {"md5": md5(files[found.meta["filename"]])})
    return packed({f"{found.base_folder}/{file}": content for file, content in files.items()}), expected


def _stl10(monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, dict[str, Any]]:
    found = torchvision.datasets.STL10
    classes = ["airplane", "bird"]
    expected: dict[str, Any] = {"unlabeled": pixels(UNLABELED, 96)}
    files = {"class_names.txt": "\n".join(classes).encode()}
    for split, count in COUNTS.items():
        images, labels = pixels(count, 96), np.arange(count) % 2
        expected[split] = (images, labels, classes)
        files[f"{split}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
    for split, value in expected.items():
        images = value if split == "unlabeled" else value[0]
        files[f"{split}_X.bin"] = images.transpose(0, 3, 2, 1).tobytes()
    for attribute in ("train_list", "test_list"):
        listed = [[part, md5(files[part])] for part, _ in getattr(found, attribute)]
        monkeypatch.setattr(found, attribute, listed)
    return packed({f"{found.base_folder}/{file}": content for file, content in files.items()}), expected


def _imagenette() -> tuple[bytes, dict[str, Any]]:
    files = {"imagenette2-160/noisy_imagenette.csv": b"path\n"}
    for split, count in (("train", COUNTS["train"]), ("val", COUNTS["test"])):
        for number in range(count):
            stream = io.BytesIO()
            Image.fromarray(pixels(1, 20)[0]).save(stream, "JPEG")
            name = IMAGENETTE[number % 2]
            files[f"imagenette2-160/{split}/{name}/{name}_{number}.JPEG"] = stream.getvalue()
    return packed(files), files


def publish(name: str, root: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """Write the small archive of a data set into a served folder, and lead torchvision there.

    Args:
        name: Name of the data set, as `get` takes it.
        root: Folder that is served.
        url: Address of the folder.
        monkeypatch: Changes torchvision's constants for this test.

    Returns:
        The archive, and the arrays or files that are in it.
    """
    if name == "imagenette-160":
        content, expected = _imagenette()
        path = root / "imagenette2-160.tgz"
        archives = torchvision.datasets.Imagenette._ARCHIVES | {"160px": (f"{url}/{path.name}", md5(content))}
        monkeypatch.setattr(torchvision.datasets.Imagenette, "_ARCHIVES", archives)
    else:
        of_name = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}[name]
        content, expected = _stl10(monkeypatch) if name == "stl10" else _cifar(monkeypatch, of_name)
        found = getattr(torchvision.datasets, of_name)
        path = root / found.filename
        monkeypatch.setattr(found, "url", f"{url}/{path.name}")
        monkeypatch.setattr(found, "tgz_md5", md5(content))
    path.write_bytes(content)
    return path, expected
