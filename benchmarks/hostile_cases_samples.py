"""Try samples with several images, and patterns of shards (A6, B5, E)."""

from __future__ import annotations

from collections.abc import Sequence

from hostile_cases import Place, Try, tries
from hostile_cases_tars import images, labelled, opened_tar, tar
from hostile_cases_verdicts import accepted, either, refused, right


def _group(place: Place, members: Sequence[str], labels: bool) -> None:
    """Give each key several images. One must be used, or the shard must be refused with a way out."""
    content: list[tuple[str, bytes]] = []
    for key, image in enumerate(images(place, 4)):
        content += [(f"{key}.{member}", image) for member in members]
        content += [(f"{key}.cls", b"0")] if labels else []
    (place.folder / "s.tar").write_bytes(tar(content))
    found = opened_tar(place, "s.tar")
    if found is not None:
        right(len(found[0]) == 4, f"{len(found[0])} images of 4 samples")
    result = place.bt("scan", "s.tar", "-o", "s")
    if found is None:
        refused(result, "s.tar", ("image=", "one image", "more than one image", "several images", "two images"))


_GROUPS: dict[str, tuple[Sequence[str], bool]] = {
    "masks": (("jpg", "seg.png"), True),
    "masks first": (("mask.png", "jpg"), True),
    "depths": (("jpg", "depth.tif"), True),
    "left and right": (("left.jpg", "right.jpg"), True),
    "two formats": (("jpg", "webp"), True),
    "thumbnails": (("jpg", "thumb.jpg"), True),
    "masks without labels": (("jpg", "seg.png"), False),
    "frames": (("0.jpg", "1.jpg", "2.jpg"), True),
    "a mask in upper case": (("jpg", "SEG.PNG"), True),
    "json in addition, which is right": (("jpg", "json", "txt"), True),
}


def _chosen(place: Place, suffix: str, first: bytes) -> None:
    """Use the `?image=` that the refusal suggests. It must work."""
    content: list[tuple[str, bytes]] = []
    for key, image in enumerate(images(place, 4)):
        content += [(f"{key}.jpg", image), (f"{key}.seg.png", b"\x89PNG" + image), (f"{key}.cls", b"0")]
    (place.folder / "s.tar").write_bytes(tar(content))
    if not either(place.bt("scan", "s.tar", "-o", "s"), "s.tar"):
        found = opened_tar(place, f"s.tar?image={suffix}", "s.tar")
        right(found is not None and len(found[0]) == 4, "?image= does not work")
        assert found is not None
        right(all(content.startswith(first) for content in found[2]), "another image was used")


def _label_size(place: Place, label: bytes) -> None:
    members = list(labelled(place, 4))
    members[1] = ("0.cls", label)
    (place.folder / "s.tar").write_bytes(tar(members))
    either(place.bt("scan", "s.tar", "-o", "s", limit=30), "s.tar")


def _pattern(place: Place, pattern: str, count: int) -> None:
    """Use brackets and braces in paths that exist. They must not act as patterns."""
    path = place.folder / pattern
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar(labelled(place, 4)))
    result = accepted(place.bt("scan", pattern, "-o", "s"))
    right(f"{count} good" in result.out, result.out)


def _range(place: Place, pattern: str) -> None:
    """Use a pattern of many names. It must be refused quickly and with little memory."""
    refused(place.bt("check", place.recipe, f"data.train={pattern}", "data.val=null", limit=20), "data.train")


_RANGES = {
    "10^8 shards": "s-{0..99999999}.tar",
    "10^9 in three braces": "s-{000..999}-{000..999}-{000..999}.tar",
    "from a negative number": "s-{-99999999..99999999}.tar",
    "a step": "s-{0..999999999999..2}.tar",
    "nested braces": "s-" + "{a,b}" * 30 + ".tar",
    "deep braces": "{" * 3000 + "a" + "}" * 3000 + ".tar",
    "huge numbers": "s-{0.." + "9" * 3000 + "}.tar",
    "letters": "{a..z}{a..z}{a..z}{a..z}{a..z}{a..z}.tar",
    "stars": "**/" * 12 + "nothing-*.tar",
}


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = tries("A6", _GROUPS, _group)
    found += tries("A6", {"?image=jpg": ("jpg", b"\xff\xd8"), "?image=seg.png": ("seg.png", b"\x89PNG")}, _chosen)
    found += tries("B5", {f"a range of shards: {name}": pattern for name, pattern in _RANGES.items()}, _range)
    sizes = {"5,000 digits": b"7" * 5000, "10^7 letters": b"x" * 10**7}
    found += tries("B5", {f"a label of {name}": label for name, label in sizes.items()}, _label_size)
    patterns = {"brackets": ("a[1]/s[0].tar", 4), "a star": ("a*/s.tar", 4), "braces": ("{x}/s{0..1}.tar", 4)}
    found += tries("E", {f"a path with {name}": case for name, case in patterns.items()}, _pattern)
    return found
