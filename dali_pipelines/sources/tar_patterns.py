"""Patterns of tar shards: braces, wildcards, and ?image=SUFFIX."""

from __future__ import annotations

import os
import re

from dali_pipelines.sources.files import IMAGE_SUFFIXES
from dali_pipelines.sources.paths import absolute
from dali_pipelines.storage.urls import is_url

_CHOICE = re.compile(r"(.*\.tar)\?image=([^/?]+)", re.DOTALL | re.IGNORECASE)


def is_tar_pattern(path: str) -> bool:
    """Return whether a path is a pattern of tar shards (see tar_shards)."""
    return path.lower().endswith(".tar") or _CHOICE.fullmatch(path) is not None


def chosen(pattern: str) -> tuple[str, list[str]]:
    """Return the pattern without ?image=, and the suffixes in it.

    Args:
        pattern: Pattern as the user wrote it.

    Raises:
        ValueError: If a suffix is not that of an image.
    """
    match = _CHOICE.fullmatch(pattern)
    if match is None or (not is_url(pattern) and os.path.isfile(absolute(pattern))):
        return pattern, []
    suffixes = [suffix.strip().lower() for suffix in match[2].split(",")]
    for suffix in suffixes:
        if not f".{suffix}".endswith(IMAGE_SUFFIXES):
            raise ValueError(
                f"{pattern}: ?image={suffix} is not allowed; it must be the text after the first dot of an image's"
                " name, such as jpg or seg.png"
            )
    return match[1], suffixes
