"""Open lists of image files: .csv or .tsv with a path and a label per line, or .txt with a path per line."""

from __future__ import annotations

import os
from pathlib import Path

from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.files import FileSource
from dali_pipelines.sources.list_reader import LIST_DELIMITERS, ListReader, checked_classes
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.paths import absolute, unreadable
from dali_pipelines.sources.remote_lists import RemoteListSource, listed_at
from dali_pipelines.storage.options import DEFAULT, Storage
from dali_pipelines.storage.urls import is_url


def file_list(path: str | Path, *, storage: Storage = DEFAULT) -> FileSource | RemoteListSource:
    """Open a list of image files.

    A .csv or .tsv list has a path and a label per line; either all lines have a label or none. A .txt list has a path
    per line. Paths are absolute, begin with ~/, or are relative to the list's folder. A first line such as "path,label"
    or "class,width,filename" is a header that names the columns. Classes are sorted as numbers if all are whole
    numbers, else as text. Opening does not check that the files exist. A missing file counts as a bad file when it is
    read.

    A list may be behind a URL, and its lines may be URLs. The paths of a list behind a URL begin at its folder.

    Args:
        path: List, a .csv, .tsv or .txt file in UTF-8, or its URL.
        storage: Where the bytes of remote images are kept.

    Raises:
        ValueError: If the list does not exist, is empty, or a line has an error; the message names the line.
        StorageError: If a remote storage does not answer.

    Examples:
        >>> source = file_list("train.csv")
        >>> len(source), source.classes
    """
    if is_url(url := os.fspath(path)):
        return listed_at(url, storage=storage)
    path = absolute(path)
    suffix = path.suffix.lower()
    if suffix not in LIST_DELIMITERS:
        raise ValueError(f"{path}: is not a list of files; use a {', '.join(LIST_DELIMITERS)} file")
    labels: list[str] = []
    try:
        with open_regular(path) as file:
            reader = ListReader(path, suffix=suffix, file=file, folder=path.parent)
            names = Names.of(reader.paths(labels))
    except OSError as error:
        raise ValueError(f"{unreadable(path, error)}; use a {', '.join(LIST_DELIMITERS)} file") from error
    numbers, classes = checked_classes(path, names, labels)
    if reader.has_urls:
        return RemoteListSource(names, folder="", version="", storage=storage, labels=numbers, classes=classes)
    return FileSource(path.parent, names, labels=numbers, classes=classes)
