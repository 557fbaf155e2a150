"""Expand the patterns that name many files, and split off the choices at their end."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

import bracex

from dali_pipelines.sources.paths import absolute, unreadable
from dali_pipelines.storage.urls import is_url

# More names mean a mistake in the range, and would fill the memory.
_MOST_FILES = 1_000_000
_MOST_CHARACTERS = 2**28


def expanded(pattern: str, kind: str) -> list[str]:
    """Return the files that a pattern names, sorted where it has wildcards.

    A path that exists is taken literally, even if it contains "[", "*", "?" or "{".

    Args:
        pattern: Path with wildcards (set/*.tar) and braces (train-{0000..0146}.tar), or without.
        kind: What a file is called in messages, such as "shard".

    Raises:
        ValueError: If a named file does not exist, or nothing matches.
    """
    literal, rest = _existing_part(absolute(pattern))
    files = []
    for name in without_braces(rest, pattern):
        path = os.path.join(literal, name) if name else literal
        if not glob.has_magic(name) or os.path.lexists(path):
            files.append(path)
            continue
        found = sorted(glob.glob(os.path.join(glob.escape(literal), name), recursive=True))
        if not found:
            raise ValueError(f"{path}: no {kind} matches; correct the pattern")
        files += found
    for file in files:
        try:
            os.stat(file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(f"{file}: does not exist; correct the name or the range of {pattern}") from error
        except OSError as error:
            raise unreadable(file, error) from error
    return files


def prefixes_of(files: Sequence[str]) -> list[str]:
    """Return the path of each file relative to the folder that contains all, with "/". Names of images begin with it.

    Args:
        files: Paths of files, at least one, or URLs.
    """
    if is_url(files[0]):
        paths = [url.split("://", 1)[1] for url in files]
        root = posixpath.commonpath([posixpath.dirname(path) for path in paths])
        return [path.removeprefix(root).lstrip("/") for path in paths]
    paths = [os.path.abspath(file) for file in files]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]


def split_choices(pattern: str, keys: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return a pattern without the choices at its end, such as ?image=photo&label=kind, and the choices.

    Args:
        pattern: Pattern as the user wrote it. A path that exists has no choices.
        keys: Keys that may be chosen.

    Raises:
        ValueError: If another key is chosen, or one is chosen twice.
    """
    path, mark, tail = pattern.rpartition("?")
    if not mark or "=" not in tail or "/" in tail or os.path.lexists(absolute(pattern)):
        return pattern, {}
    choices: dict[str, str] = {}
    for choice in tail.split("&"):
        key, equals, value = choice.partition("=")
        if key not in keys or not equals or key in choices:
            rule = " and ".join(f"{key}=NAME" for key in keys)
            raise ValueError(f"{pattern}: ?{tail} is not allowed; it may have {rule}, each once and joined by &")
        choices[key] = value
    return path, choices


def _existing_part(path: Path) -> tuple[str, str]:
    """Return the part of a path that exists exactly as it is written, and the rest."""
    parts = path.parts
    count = 1
    while count < len(parts) and os.path.lexists(os.path.join(*parts[: count + 1])):
        count += 1
    return os.path.join(*parts[:count]), os.sep.join(parts[count:])


def without_braces(name: str, pattern: str) -> list[str]:
    """Return the names that a name with braces stands for.

    Args:
        name: Name with braces, or without.
        pattern: Whole pattern, for messages.

    Raises:
        ValueError: If there are too many names.
    """
    names: list[str] = []
    characters = 0
    try:
        for each in bracex.iexpand(name, limit=_MOST_FILES) if name else [""]:
            names.append(each)
            characters += len(each)
            if characters > _MOST_CHARACTERS:
                raise bracex.ExpansionLimitException
    except (bracex.ExpansionLimitException, RecursionError) as error:
        raise ValueError(
            f"{pattern[:200]}: the braces have more than {_MOST_FILES} names; correct the range, or use a wildcard"
        ) from error
    return names
