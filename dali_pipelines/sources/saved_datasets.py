"""The source of images in a folder that save_to_disk of the package datasets has written: Arrow files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.regular_files import open_regular, read_regular
from dali_pipelines.sources.index_cache import Built, Index, cached_index
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.parquet_groups import binary_rows
from dali_pipelines.sources.paths import absolute, unreadable
from dali_pipelines.sources.patterns import split_choices
from dali_pipelines.sources.slices import SliceSource
from dali_pipelines.sources.table_columns import CHOICES, Columns, columns_of, import_pyarrow
from dali_pipelines.sources.table_labels import TableLabels

_STATE, _INFO, _DICT = "state.json", "dataset_info.json", "dataset_dict.json"
_REMEDY = "save the dataset again with save_to_disk"


class SavedSource(SliceSource):
    """A source of images in Arrow files. Each image is read from its position. Their names are FILE/ROW."""

    def place(self, index: int) -> str:
        """Return the path of an image's file, and the number of its row in the file."""
        return f"{self.file(index)}, row {self.names[index].rpartition('/')[2]}"


def is_saved(folder: Path) -> bool:
    """Return whether save_to_disk has written a folder."""
    return os.path.isfile(folder / _DICT) or all(os.path.isfile(folder / name) for name in (_STATE, _INFO))


def saved_dataset(path: str | Path) -> SavedSource:
    """Open the images of a dataset that save_to_disk of the package datasets has written.

    The columns are found as by parquet_files. The Arrow files are mapped into memory once to index the images. Later
    each image is read alone, so all images can be shuffled.

    Args:
        path: Folder with state.json and dataset_info.json. With ?image=COLUMN&label=COLUMN at the end, these columns
            are read; ?label= reads no labels.

    Raises:
        ValueError: If the folder is not such a dataset, has several splits or is damaged, or it is not clear which
            columns are read. Also if pyarrow is not installed.

    Examples:
        >>> source = saved_dataset("saved/train")
    """
    name, choices = split_choices(os.fspath(path), CHOICES)
    folder = absolute(name)
    import_pyarrow(name)
    if os.path.isfile(folder / _DICT):
        splits = [str(split) for split in _json(folder / _DICT).get("splits") or ()]
        folders = " or ".join(str(folder / split) for split in splits) or "one of its folders"
        raise ValueError(f"{folder}: has the splits {', '.join(splits)}; give one of them: {folders}")
    files = [str(folder / name) for name in _data_files(folder)]
    texts = (f"{key}={value}" for key, value in sorted(choices.items()))
    key = "\n".join(["saved dataset", str(folder.resolve()), *texts])
    index = cached_index(key, lambda: _index_of(folder, files, choices))
    classes = tuple(Names(index["classes"], index["class_ends"]))
    return SavedSource(
        files,
        names=Names(index["names"], index["ends"]),
        labels=index["labels"] if classes else None,
        classes=classes,
        file_of=np.repeat(np.arange(len(files)), index["counts"]),
        offsets=index["offsets"],
        sizes=index["sizes"],
    )


def _data_files(folder: Path) -> list[str]:
    state = _json(folder / _STATE)
    if state.get("_indices_data_files"):
        raise ValueError(f"{folder}: an old version of datasets has saved it with a table of indices; {_REMEDY}")
    files = state.get("_data_files")
    names = [each.get("filename") for each in files if isinstance(each, dict)] if isinstance(files, list) else []
    found = [name for name in names if isinstance(name, str) and name and name == os.path.basename(name)]
    if not found or found != names:
        raise ValueError(f"{folder / _STATE}: names no data files; {_REMEDY}")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}; {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is not a JSON object; {_REMEDY}")
    return content


def _index_of(folder: Path, files: Sequence[str], choices: Mapping[str, str]) -> Built:
    first: Columns | None = None
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for path in files:
        try:
            columns, offsets, sizes, column = _read(path, choices)
            if first is None:
                first, labels = columns, TableLabels(columns)
            if columns != first:
                raise ValueError(f"its columns differ from those of {files[0]}; {_REMEDY}")
            if column is not None:
                labels.add(column)
        except OSError as error:
            raise unreadable(path, error) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        found.append((offsets, sizes))
    assert first is not None, "there is at least one file"
    sizes = np.concatenate([sizes for _, sizes in found])
    if not np.any(sizes >= 0):
        reason = f"column {first.image!r} has no bytes, only paths" if len(sizes) else "dataset has no rows"
        raise ValueError(f"{folder}: the {reason}; {_REMEDY}, with the images' bytes")
    numbers, classes = labels.numbered()
    names = Names.of(f"{os.path.basename(path)}/{row}" for path, (of, _) in zip(files, found) for row in range(len(of)))
    packed_classes = Names.of(classes)
    index: Index = {
        "names": names.block,
        "ends": names.ends,
        "labels": np.empty(0, dtype=np.int64) if numbers is None else numbers,
        "classes": packed_classes.block,
        "class_ends": packed_classes.ends,
        "counts": np.array([len(of) for of, _ in found], dtype=np.int64),
        "offsets": np.concatenate([of for of, _ in found]),
        "sizes": sizes,
    }
    return Built(index, [*files, str(folder / _STATE)])


def _read(path: str, choices: Mapping[str, str]) -> tuple[Columns, NDArray[np.int64], NDArray[np.int64], Any]:
    """Return the columns of an Arrow file, the offset and size of each image in it, and the column of labels."""
    import pyarrow

    open_regular(path).close()
    with pyarrow.memory_map(path) as file:
        content = file.read_buffer()
    try:
        with pyarrow.ipc.open_stream(content) as stream:
            schema, batches = stream.schema, [batch for batch in stream if batch.num_rows]
        columns = columns_of(schema, choices)
        for batch in batches:
            batch.column(columns.image).validate(full=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{type(error).__name__}: {error}; it must be a whole Arrow stream, so {_REMEDY}") from error
    offsets, sizes = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for batch in batches:
        rows = binary_rows(batch.column(columns.image))
        ends = rows.ends.astype(np.int64)
        begin = rows.values.ctypes.data - content.address if rows.values.size else 0
        if not 0 <= begin <= content.size - rows.values.size:
            raise ValueError(f"its record batches are compressed; {_REMEDY}")
        offsets.append(begin + ends[:-1])
        sizes.append(np.diff(ends) if rows.is_valid is None else np.where(rows.is_valid, np.diff(ends), -1))
    labels = None
    if columns.label is not None:
        labels = pyarrow.chunked_array(
            [batch.column(columns.label) for batch in batches], schema.field(columns.label).type
        )
    return columns, np.concatenate(offsets), np.concatenate(sizes), labels
