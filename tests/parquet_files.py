"""Parquet files made by tests, in the layout of the package datasets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from dali_pipelines.sources import FileSource

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int] | None = None,
    *,
    classes: Sequence[str] = (),
    rows: int = 100,
    **options: Any,
) -> Path:
    """Write images as datasets does: a struct of bytes and path, and the features in the schema's metadata."""
    structs = [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(images)]
    columns: dict[str, Any] = {"image": pa.array(structs, IMAGE)}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=rows, **options)
    return path


def write_set(source: FileSource, folder: Path, *, files: int, rows: int) -> str:
    """Write the images of a folder as files of row groups, in its order, and return their pattern."""
    size = -(-len(source) // files)
    for number in range(files):
        mine = range(number * size, min((number + 1) * size, len(source)))
        write_parquet(
            folder / f"train-{number:05}-of-{files:05}.parquet",
            [source.read(index).tobytes() for index in mine],
            source.labels[mine.start : mine.stop].tolist(),
            classes=source.classes,
            rows=rows,
        )
    return f"{folder}/train-*.parquet"


def write_columns(path: Path, **columns: Any) -> Path:
    """Write a table without the metadata of datasets."""
    parquet.write_table(pa.table(columns), path)
    return path
