"""Open folders of images: one sub-folder per class, or all images without labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.files import ARRAY_SUFFIX, ENDINGS, FileSource, is_image, without_companions
from dali_pipelines.sources.folder_walk import FolderWalk, entries_of, is_folder
from dali_pipelines.sources.index_cache import Built, Index, cached_index
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.paths import absolute, unreadable

logger = logging.getLogger(__name__)


def image_folder(root: str | Path) -> FileSource:
    """Open a folder with one sub-folder per class, as torchvision's ImageFolder: ROOT/CLASS/**/*.jpg.

    Every sub-folder with images, at any depth, is a class. The classes are sorted by name.

    Args:
        root: Folder of the classes.

    Raises:
        ValueError: If the folder does not exist, a folder in it cannot be read, or no class has images.

    Examples:
        >>> loader = TwoViewLoader(image_folder("imagenet/train"), batch_size_per_rank=256)
    """
    root = existing_folder(root)
    tops = tuple(sorted(entry.name for entry in entries_of(str(root)) if entry.name[0] != "." and is_folder(entry)))
    index = _index_of(f"image folder {root.resolve()}", root, tops)
    labels = index["labels"]
    present = np.flatnonzero(np.bincount(labels, minlength=len(tops)))
    if not len(present):
        inside = f"none of its {len(tops)} folders has images" if tops else "has no images and no folders of images"
        raise ValueError(f"{root}: {inside}; {ENDINGS}")
    classes = tuple(tops[number] for number in present)
    if len(classes) < len(tops):
        without = _some(sorted(set(tops).difference(classes)))
        logger.warning("%s: %s without images, and left out of the %d classes", root, without, len(classes))
        labels = np.searchsorted(present, labels)
    return FileSource(root, Names(index["names"], index["ends"]), labels=labels, classes=classes)


def flat_folder(root: str | Path) -> FileSource:
    """Open all images in a folder, at any depth and without labels: ROOT/**/*.jpg.

    Args:
        root: Folder of the images.

    Raises:
        ValueError: If the folder does not exist, a folder in it cannot be read, or it has no image.

    Examples:
        >>> loader = TwoViewLoader(flat_folder("images"), batch_size_per_rank=256)
    """
    root = existing_folder(root)
    index = _index_of(f"flat folder {root.resolve()}", root, ("",))
    if not len(index["ends"]):
        raise ValueError(f"{root}: has no images; {ENDINGS}")
    return FileSource(root, Names(index["names"], index["ends"]), labels=None, classes=())


def any_folder(root: str | Path) -> FileSource:
    """Open a folder as flat_folder if it directly contains images, otherwise as image_folder.

    Args:
        root: Folder of images or classes.

    Raises:
        ValueError: If the folder does not exist, a folder in it cannot be read, or it has no image.
    """
    root = existing_folder(root)
    # The listing has the kind of every entry that is not a link, which saves a call per file.
    entries = (entry for entry in entries_of(str(root)) if is_image(entry.name))
    files = (entry for entry in entries if (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()))
    is_array = [entry.name.lower().endswith(ARRAY_SUFFIX) for entry in files]
    if not is_array:
        return image_folder(root)
    source = flat_folder(root)
    if all(is_array) and not source.names[0].lower().endswith(ARRAY_SUFFIX):
        return image_folder(root)
    assert isinstance(source.names, Names), "flat_folder returns packed names"
    slashes = np.flatnonzero(source.names.block == ord("/"))
    in_folders = len(np.unique(np.searchsorted(source.names.ends, slashes, side="right")))
    if in_folders:
        logger.warning(
            "%s: read without labels, because the folder directly contains %d images, next to %d images in sub-folders."
            " If the sub-folders are classes, move these %d images elsewhere.",
            root, len(source) - in_folders, in_folders, len(source) - in_folders,
        )  # fmt: skip
    return source


def existing_folder(root: str | Path) -> Path:
    """Return the absolute path of a folder.

    Args:
        root: Folder.

    Raises:
        ValueError: If the folder does not exist.
    """
    root = absolute(root)
    if os.path.isdir(root):
        return root
    try:
        open_regular(root).close()
        reason = f"{root}: is a file"
    except OSError as error:
        reason = str(unreadable(root, error))
    raise ValueError(
        f"{reason}; give a folder of images, a list of them (.csv, .tsv, .txt), .tar shards, .parquet files, or a .npz"
        " or .npy file of pixels"
    )


def _index_of(key: str, root: Path, tops: Sequence[str]) -> Index:
    """Return the index of the images below some sub-folders of root. A label is the number of the sub-folder.

    Args:
        key: Key of the index in the cache.
        root: Folder.
        tops: Names of the sub-folders; "" is the root itself.
    """
    index = cached_index(key, lambda: _built(str(root), tops))
    for kind, rule in (
        (
            "links",
            "left out; a symbolic link is not followed if its folder is read anyway or contains the link",
        ),
        ("others", "left out; this format is not supported, so convert the images to JPEG or PNG"),
    ):
        names = Names(index[kind], index[f"{kind}_ends"])
        if names:
            logger.warning("%s: %s %s", root, _some(names), rule)
    return index


def _built(root: str, tops: Sequence[str]) -> Built:
    """Build the index. The images are sorted, so that every machine numbers them in the same order."""
    walk = FolderWalk(root)
    labels: list[int] = []
    folders = [root]

    def below() -> Iterator[str]:
        for label, top in enumerate(tops):
            for folder in walk.below(top):
                folders.append(folder.path)
                labels.extend([label] * len(folder.images))
                yield from (folder.prefix + name for name in folder.images)

    names, links, others = Names.of(below()), Names.of(walk.left_out_links), Names.of(sorted(walk.other_images))
    has_arrays = ARRAY_SUFFIX.encode() in names.block.tobytes().lower()
    kept = without_companions(names) if has_arrays else None
    if kept is not None:
        if len(names) > 3 * len(kept):
            logger.warning(
                "%s: %d .npy files are left out, because there are %d images of other formats; move these elsewhere to"
                " read the .npy files as images", root, len(names) - len(kept), len(kept),
            )  # fmt: skip
        names, labels = Names.of(names[number] for number in kept), [labels[number] for number in kept]
    index: Index = {
        "names": names.block,
        "ends": names.ends,
        "labels": np.array(labels, dtype=np.int64),
        "links": links.block,
        "links_ends": links.ends,
        "others": others.block,
        "others_ends": others.ends,
    }
    return Built(index, folders)


def _some(names: Sequence[str]) -> str:
    """Return the first names and the number of the others, as the subject of a sentence."""
    shown = ", ".join(names[:3])
    return (
        f"{shown} and {len(names) - 3} others are" if len(names) > 3 else f"{shown} {'are' if len(names) > 1 else 'is'}"
    )
