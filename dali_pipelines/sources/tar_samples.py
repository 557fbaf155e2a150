"""Select the images of a tar file, and find their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from dali_pipelines.sources.files import without_companions
from dali_pipelines.sources.tar_reader import Member, Members


class Image(NamedTuple):
    """An image in a tar file.

    Args:
        name: Name of the member.
        label: Label, empty if the image has none.
        offset: Position of the image's bytes in the tar file.
        size: Number of its bytes.
    """

    name: str
    label: str
    offset: int
    size: int


def labelled_images(members: Members, suffixes: Collection[str]) -> list[Image]:
    """Return the images with their labels. Next to other images, .npy files are images only if they are chosen.

    An image's label is the text of the .cls member with the same name up to the last dot. If there is none, it is the
    text of the .cls member with the same WebDataset key, which is the name up to the first dot.

    Args:
        members: Members of the tar file.
        suffixes: Allowed texts after the first dot of an image's name, in lower case. Empty allows any. Then several
            images of one key are allowed only if their names show that each is an image of its own.

    Raises:
        ValueError: If it is not clear which members of a key are the images, or which label an image has.
    """
    images = [each for each in members.images if not suffixes or suffix_of(each.name).lower() in suffixes]
    kept = None if suffixes else without_companions(each.name for each in images)
    if kept is not None:
        images = [images[number] for number in kept]
        members = members._replace(images=images)
    own = [members.labels.get(_own_label(each.name)) for each in images]
    if not suffixes:
        _check_keys(images, own, members)
    labels = own if None not in own else _with_labels_of_keys(images, own, members)
    return [Image(each.name, label or "", each.offset, each.size) for each, label in zip(images, labels)]


def suffix_of(name: str) -> str:
    """Return the text after the first dot of a member's name, without its folders: "seg.png" for "a.b/0.seg.png"."""
    return name.rpartition("/")[2].partition(".")[2]


def _key(name: str) -> str:
    """Return the WebDataset key: the name up to the first dot after its folders. WebDataset groups members by it."""
    return name[: len(name) - len(suffix_of(name)) - 1]


def _own_label(name: str) -> str:
    return f"{name.rpartition('.')[0]}.cls"


def _labels_of_keys(members: Members) -> dict[str, set[str]]:
    """Return the texts of the .cls members of each key, except those that belong to one image."""
    taken = {_own_label(each.name) for each in members.images}
    found: dict[str, set[str]] = {}
    for name, label in members.labels.items():
        if name not in taken or suffix_of(name) == "cls":
            found.setdefault(_key(name), set()).add(label)
    return found


def _with_labels_of_keys(images: Sequence[Member], own: Sequence[str | None], members: Members) -> list[str | None]:
    of_keys = _labels_of_keys(members)
    completed = list(own)
    for number, each in enumerate(images):
        key = _key(each.name)
        if own[number] is None and key in of_keys:
            exact = f"{key}.cls"
            choice = {members.labels[exact]} if exact in members.labels else of_keys[key]
            if len(choice) > 1:
                raise ValueError(f"{each.name!r} has several different .cls members; name the right one {exact!r}")
            (completed[number],) = choice
    return completed


def _check_keys(images: Sequence[Member], own: Sequence[str | None], members: Members) -> None:
    """Raise if one sample has several images, such as an image and its mask, and the user did not choose one.

    Several images of a key are allowed as separate images, such as cat.0.jpg and cat.1.jpg, in two cases:

    - Each has its own label.
    - The key has no label, none of the images is exactly KEY.SUFFIX, and the words that tell them apart do not occur in
      the images of other keys.
    """
    counts = Counter(_key(each.name) for each in images)
    if len(counts) == len(images):
        return
    several: dict[str, list[int]] = {}
    for number, each in enumerate(images):
        if counts[_key(each.name)] > 1:
            several.setdefault(_key(each.name), []).append(number)
    of_keys = _labels_of_keys(members)
    words: dict[str, str] = {}
    for key, numbers in several.items():
        names = [images[number].name for number in numbers]
        are_labelled = all(own[number] is not None for number in numbers)
        if are_labelled and len({_own_label(name) for name in names}) == len(names):
            continue
        for name in names:
            word = suffix_of(name).rpartition(".")[0]
            is_word = any(map(str.isalpha, word)) and not any(map(str.isdigit, word))
            if key in of_keys or not word or (is_word and words.setdefault(suffix_of(name), key) != key):
                _refuse(names)


def _refuse(names: Sequence[str]) -> None:
    first, second = (suffix_of(name) for name in names[:2])
    raise ValueError(
        f"{names[0]!r} and {names[1]!r} are images of one sample; choose one with SHARDS.tar?image={first}, use both"
        f" with ?image={first},{second}, or give each its own .cls"
    )
