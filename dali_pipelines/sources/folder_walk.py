"""Walk through a tree of folders in sorted order, and read each real folder once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from dali_pipelines.sources.files import is_image
from dali_pipelines.sources.paths import unreadable

# Images that are not decoded on both devices. They are left out with a warning.
OTHER_IMAGES = (".gif", ".avif", ".heic", ".heif", ".jxl", ".jxr", ".tga", ".pcx", ".pfm", ".exr", ".dng", ".svg")


class Folder(NamedTuple):
    """A folder, and the images directly in it.

    Args:
        path: Path of the folder.
        prefix: Path relative to the root, empty or with "/" at the end.
        images: Names of the images, sorted.
    """

    path: str
    prefix: str
    images: list[str]


class _Waiting(NamedTuple):
    path: str
    prefix: str
    is_link: bool
    # The real path of the parent folder, and whether a link led there.
    real_parent: str
    is_linked: bool


class FolderWalk:
    """A walk below a root, which keeps the names of the links and images that it left out.

    Symbolic links to folders are followed, but each real folder is read once. A link is left out if its folder contains
    the link, is in the tree anyway, or was reached by another link. So real folders take precedence over links to them,
    and links that lead to each other cause no endless walk.

    Args:
        root: Folder that all names are relative to.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._linked: set[str] = set()
        self.left_out_links: list[str] = []
        self.other_images: list[str] = []

    def below(self, top: str) -> Iterator[Folder]:
        """Yield the folders from a sub-folder of the root downwards, each before its own sub-folders.

        Args:
            top: Name of the sub-folder; "" is the root itself.

        Raises:
            ValueError: If a folder cannot be read.
        """
        start = os.path.join(self._root, top) if top else self._root
        prefix = f"{top}/" if top else ""
        waiting = [_Waiting(start, prefix, bool(top) and os.path.islink(start), self._real_root, is_linked=False)]
        while waiting:
            each = waiting.pop()
            real = self._entered(each)
            if real is None:
                self.left_out_links.append(each.prefix[:-1])
                continue
            images, subfolders = self._content(each)
            yield Folder(each.path, each.prefix, images)
            is_linked = each.is_linked or each.is_link
            waiting += [
                _Waiting(os.path.join(each.path, name), f"{each.prefix}{name}/", is_link, real, is_linked)
                for name, is_link in reversed(subfolders)
            ]

    def _content(self, folder: _Waiting) -> tuple[list[str], list[tuple[str, bool]]]:
        """Return the names of the images, and the sub-folders as (name, whether it is a link), both sorted."""
        images: list[str] = []
        subfolders: list[tuple[str, bool]] = []
        for entry in entries_of(folder.path):
            name = entry.name
            if is_folder(entry):
                if name[0] != ".":
                    subfolders.append((name, entry.is_symlink()))
            elif is_image(name):
                images.append(name)
            elif name[0] != "." and name.lower().endswith(OTHER_IMAGES):
                self.other_images.append(folder.prefix + name)
        return sorted(images), sorted(subfolders)

    def _entered(self, folder: _Waiting) -> str | None:
        """Return the folder's real path, or None if it is left out."""
        if not folder.is_link and not folder.is_linked:
            return os.path.join(folder.real_parent, os.path.basename(folder.path)) if folder.prefix else self._real_root
        real = os.path.realpath(folder.path)
        # A hidden folder is not in the tree. A path that begins with ".." is not in it either.
        in_tree = all(part[0] != "." for part in os.path.relpath(real, self._real_root).split(os.sep))
        leads_back = _contains(real, self._real_root) or (folder.is_link and _contains(real, folder.real_parent))
        if in_tree or leads_back or real in self._linked:
            return None
        self._linked.add(real)
        return real


def _contains(folder: str, other: str) -> bool:
    """Return whether a folder is the other one or contains it. Both are real paths."""
    return os.path.commonpath([folder, other]) == folder


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder.

    Raises:
        ValueError: If the folder cannot be read.
    """
    try:
        # The permission to list a folder does not include the permission to open its files, so check that too.
        os.stat(os.path.join(folder, "."))
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise unreadable(folder, error) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one.

    Raises:
        ValueError: If the entry cannot be examined, and its name is not that of an image. Such an image is a bad file
            when it is read.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP or is_image(entry.name):
            return False
        raise unreadable(entry.path, error) from error
