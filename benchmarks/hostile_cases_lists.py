"""Try lists, subsets, and links between folders (A5, A7, A8)."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostile_cases import Place, Try, tries
from hostile_cases_verdicts import accepted, helpful, raises, right


def opened(place: Place, path: Path | str, limit: float = 20) -> tuple[list[str], list[str]] | None:
    """Return the names and labels of a source, or None if it is refused by its name."""

    def read() -> tuple[list[str], list[str]]:
        from dali_pipelines.sources import open_source

        source = open_source(path)
        labels = [source.classes[label] for label in source.labels] if source.has_labels else []
        return list(source.names), labels

    result = place.call(read, limit)
    if raises(result, Path(path).name):
        return None
    found: tuple[list[str], list[str]] = result.value
    return found


def rows_of(folder: Path) -> list[tuple[str, str]]:
    return [(str(path), path.parent.name) for path in sorted(folder.glob("*/*.jpg"))]


def _subset(place: Place, content: bytes, expected: Sequence[str] | None) -> None:
    """Read a file for finetune.subset. It must select the intended images, or be refused by its name."""
    folder = place.classes(count=3)
    shutil.copy(folder / "c0/0.jpg", folder / "c0/a name.jpg")
    shutil.copy(folder / "c0/0.jpg", folder / "c0/only.jpg")
    (folder / "c1/deep").mkdir()
    shutil.copy(folder / "c1/0.jpg", folder / "c1/deep/1.jpg")
    (place.folder / "subset.txt").write_bytes(content)

    def read() -> list[str]:
        from bt_plugin.evaluation.subsets import listed
        from dali_pipelines.sources import open_source

        return list(listed(open_source(folder), "subset.txt").names)

    result = place.call(read)
    if not raises(result, "subset.txt"):
        right(expected is not None and result.value == list(expected), f"{result.value} instead of {expected}")
    else:
        helpful(expected is None, f"refused, though right: {result.value.message}")


_SUBSETS: dict[str, tuple[bytes, Sequence[str] | None]] = {
    "plain names in two classes": (b"0.jpg\n1.jpg\n", None),
    "one plain name in two folders of a class": (b"1.jpg\n", None),
    "plain and whole names mixed": (b"c0/0.jpg\n2.jpg\n", None),
    "a plain name after its whole one": (b"c1/2.jpg\n2.jpg\n", None),
    "whole names": (b"c0/0.jpg\nc1/2.jpg\n", ("c0/0.jpg", "c1/2.jpg")),
    "a name with a space": (b"c0/a name.jpg\n", ("c0/a name.jpg",)),
    "a plain name with a space": (b"a name.jpg\n", ("c0/a name.jpg",)),
    "a plain name that is there once": (b"only.jpg\n", ("c0/only.jpg",)),
    "carriage returns": (b"c0/0.jpg\r\nc1/2.jpg\r\n", ("c0/0.jpg", "c1/2.jpg")),
    "empty lines": (b"\n\nc0/0.jpg\n\n", ("c0/0.jpg",)),
    "byte-order mark": (b"\xef\xbb\xbfc0/0.jpg\n", ("c0/0.jpg",)),
    "a name that is not there": (b"c0/0.jpg\nc9/0.jpg\n", None),
    "a part of a path": (b"deep/1.jpg\n", None),
    "UTF-16": ("c0/0.jpg\n".encode("utf-16"), None),
    "not UTF-8": (b"c0/\xff.jpg\n", None),
    "NUL": (b"c0/0.jpg\0c1/0.jpg\n", None),
    "nothing": (b"", None),
    "a name and a label": (b"c0/0.jpg,c0\n", None),
}


def _header(place: Place, suffix: str, head: str, encoding: str, quoted: bool) -> None:
    """Read a list with a header or a similar line. Images and classes must be right, or the list refused by name."""
    rows = rows_of(place.classes())
    columns = 1 if suffix == ".txt" or not any(mark in head for mark in ",\t") else 2
    delimiter = {".csv": ",", ".tsv": "\t", ".txt": ","}[suffix]
    path = place.folder / f"list{suffix}"
    with open(path, "w", encoding=encoding, newline="") as file:
        file.write(head + "\n" if head else "")
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
        writer.writerows(row[:columns] for row in rows)
    found = opened(place, path)
    if found is not None:
        names, labels = found
        right([os.path.basename(n) for n in names] == [os.path.basename(n) for n, _ in rows], f"names: {names[:2]}")
        right(labels == ([label for _, label in rows] if columns == 2 else []), f"labels: {labels[:2]}")


_HEADS: dict[str, tuple[str, str, str, bool]] = {
    "BOM": (".csv", "path,label", "utf-8-sig", False),
    "BOM, tsv": (".tsv", "path\tlabel", "utf-8-sig", False),
    "BOM, txt": (".txt", "path", "utf-8-sig", False),
    "BOM and quotes": (".csv", '"path","label"', "utf-8-sig", True),
    "BOM, paths alone": (".csv", "path", "utf-8-sig", False),
    "filename,class": (".csv", "filename,class", "utf-8", False),
    "image,target": (".csv", "image,target", "utf-8", False),
    "Image Path, Class Name": (".csv", "Image Path,Class Name", "utf-8", False),
    "img_path,category": (".csv", "img_path,category", "utf-8", False),
    "file,y": (".csv", "file,y", "utf-8", False),
    "FILEPATH,LABEL_ID": (".csv", "FILEPATH,LABEL_ID", "utf-8", False),
    "id,species": (".csv", "id,species", "utf-8", False),
    "quoted header": (".csv", '"filename","class"', "utf-8", True),
    "spaces around": (".csv", " path , label ", "utf-8", False),
    "tsv: name, class": (".tsv", "name\tclass", "utf-8", False),
    "txt: filename": (".txt", "filename", "utf-8", False),
    "txt: a comment": (".txt", "# images of May", "utf-8", False),
    "csv: a comment": (".csv", "# path,label", "utf-8", False),
    "a header of images alone": (".csv", "image_path", "utf-8", False),
    "carriage return in the header": (".csv", "path,label\r", "utf-8", False),
}
_WITHOUT: dict[str, tuple[str, str, str, bool]] = {
    "a list without a header": (".csv", "", "utf-8", False),
    "a list of paths without a header": (".txt", "", "utf-8", False),
}


def _links(place: Place, make: Callable[[Path], None], expected: int, flat: bool = False) -> None:
    """Link folders to each other. Each real folder must be read at most once, with the right labels."""
    folder = place.classes(count=2)
    if flat:
        shutil.copy(folder / "c0/0.jpg", folder / "top.jpg")
    make(folder)
    found = opened(place, folder)
    if found is None:
        return
    names, labels = found
    real = [os.path.realpath(folder / name) for name in names]
    right(len(set(real)) == len(real), f"{len(real)} images of {len(set(real))} files")
    right(len(real) == expected, f"{len(real)} images instead of {expected}")
    if not flat:
        wrong = [name for name, label in zip(names, labels) if name.split("/")[0] != label]
        right(not wrong, f"labels of other classes: {wrong[:3]}")
    result = place.bt("scan", folder, "-o", "s", limit=30)
    right(f"{expected} good" in accepted(result).out, f"scan reads others: {result.out!r}")


def _twice(folder: Path) -> None:
    for name in ("c0", "c1"):
        os.symlink("..", folder / name / "up")


def _outside(folder: Path, target: str) -> None:
    shutil.move(folder / "c1", folder.parent / "elsewhere")
    os.symlink(folder.parent / "elsewhere", folder / target)


_LINKS: dict[str, tuple[Any, ...]] = {
    "two links to the root": (_twice, 4),
    "a link to itself": (lambda folder: os.symlink(".", folder / "c0/self"), 4),
    "an absolute link to the root": (lambda folder: os.symlink(folder, folder / "c0/deep"), 4),
    "a link to another class": (lambda folder: os.symlink("../c1", folder / "c0/other"), 4),
    "a class that links to another": (lambda folder: os.symlink("c0", folder / "c2"), 4),
    "a link around the root": (lambda folder: os.symlink(folder.parent, folder / "c0/out"), 4),
    "a link to nothing": (lambda folder: os.symlink("nowhere", folder / "c0/gone"), 4),
    "a chain of links to the root": (
        lambda folder: [
            os.symlink("..", folder / "c0/a"),
            os.symlink("a", folder / "c0/b"),
            os.symlink("b", folder / "c0/c"),
        ],
        4,
    ),
    "flat: a link to the root": (lambda folder: os.symlink("..", folder / "c0/up"), 5, True),
    "flat: two folders that link to each other": (
        lambda folder: [os.symlink("../c1", folder / "c0/x"), os.symlink("../c0", folder / "c1/y")],
        5,
        True,
    ),
    "a class that links out, which is right": (lambda folder: _outside(folder, "c1"), 4),
    "links to files, which is right": (
        lambda folder: [
            os.symlink("../../elsewhere.jpg", folder / "c0/2.jpg"),
            shutil.copy(folder / "c0/0.jpg", folder.parent / "elsewhere.jpg"),
        ],
        5,
    ),
}


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = tries("A5", _SUBSETS, _subset)
    found += tries("A7", _HEADS | _WITHOUT, _header)
    return found + tries("A8", _LINKS, _links)
