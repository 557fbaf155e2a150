"""Folders that save_to_disk of the package datasets has written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dali_pipelines import TwoViewLoader, image_folder, open_source, saved_dataset
from dali_pipelines.sources.saved_datasets import SavedSource
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen
from tests.parquet_files import IMAGE

# A folder that datasets 5.2 has written, of the images of train-00000-of-00001.parquet in two files.
WRITTEN = Path(__file__).parent / "written_by_datasets"


def save(folder: Path, *files: list[bytes | None], rows: int = 4, **columns: Any) -> Path:
    """Write images as save_to_disk does: Arrow streams of record batches, and two JSON files."""
    folder.mkdir()
    names = [f"data-{number:05}-of-{len(files):05}.arrow" for number in range(len(files))]
    first = 0
    for name, images in zip(names, files):
        structs = pa.array([{"bytes": image, "path": "x.jpg"} for image in images], IMAGE)
        others = {key: values[first : first + len(images)] for key, values in columns.items()}
        first += len(images)
        table = pa.table({"image": structs, **others})
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_what_datasets_writes() -> None:
    source = open_source(WRITTEN / "saved")
    of_parquet = open_source(WRITTEN / "train-00000-of-00001.parquet")
    assert isinstance(source, SavedSource)
    assert source.names[4] == "data-00001-of-00002.arrow/1"
    assert source.place(4) == f"{WRITTEN}/saved/data-00001-of-00002.arrow, row 1"
    assert source.classes == of_parquet.classes
    np.testing.assert_array_equal(source.labels, of_parquet.labels)
    for index in range(6):
        np.testing.assert_array_equal(source.read(index), of_parquet.read(index))


def test_batches_are_those_of_the_files(small_data: Path, tmp_path: Path) -> None:
    folder = image_folder(small_data / "train")
    images: list[bytes | None] = [folder.read(index).tobytes() for index in range(36)]
    labels = [folder.classes[label] for label in folder.labels]
    source = open_source(save(tmp_path / "saved", images[:17], images[17:], label=labels))
    name_of = dict(zip(source.names, folder.names))
    of_files = list(TwoViewLoader(folder, 8, SMALL, backend=chosen()))
    of_saved = list(TwoViewLoader(source, 8, SMALL, backend=chosen()))
    assert_same([each._replace(filenames=[name_of[name] for name in each.filenames]) for each in of_saved], of_files)


def test_rows_of_every_kind(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", [], [b"1", None, b"", b"4444", b"5"], [None], n=pa.array([2, 1] * 3))
    source = open_source(f"{folder}?image=image&label=n")
    assert source.classes == ("1", "2")
    assert source.labels.tolist() == [1, 0] * 3
    assert [source.read(index).tobytes() for index in (0, 2, 3, 4)] == [b"1", b"", b"4444", b"5"]
    for index in (1, 5):
        with pytest.raises(ValueError, match="the image is null"):
            source.read(index)


def test_what_is_no_dataset_of_one_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=r"has the splits train, test; give one of them: .*/train or .*/test"):
        open_source(tmp_path)
    folder = save(tmp_path / "paths", [None, None])
    with pytest.raises(ValueError, match="the column 'image' has no bytes, only paths; save the dataset again"):
        open_source(folder)
    with pytest.raises(ValueError, match="the dataset has no rows"):
        open_source(save(tmp_path / "empty", []))
    for text, reason in (
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "names no data files"),
        ('{"_data_files": [{"filename": "../x.arrow"}]}', "names no data files"),
        ('{"_data_files": [{"filename": "x.arrow"}]}', r"x\.arrow: does not exist"),
        ('{"_data_files": [], "_indices_data_files": [{}]}', "with a table of indices"),
    ):
        (folder / "state.json").write_text(text)
        with pytest.raises(ValueError, match=reason):
            saved_dataset(folder)


@pytest.mark.parametrize("kept", [0, 100, 2000, -100])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    folder = shutil.copytree(WRITTEN / "saved", tmp_path / "saved")
    path = folder / "data-00001-of-00002.arrow"
    content = path.read_bytes()
    path.write_bytes(b"x" * 50 + content[50:] if kept == 2000 else content[:kept])
    with pytest.raises(
        ValueError, match=r"data-00001-of-00002\.arrow: .*whole Arrow stream, so save the dataset again"
    ):
        open_source(folder)


def test_files_with_other_columns_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", [b"1"], [b"2"])
    other = save(tmp_path / "other", [b"1"], label=["a"])
    shutil.copy(other / "data-00000-of-00001.arrow", folder / "data-00001-of-00002.arrow")
    with pytest.raises(ValueError, match=r"data-00001-of-00002\.arrow: its columns differ from those of"):
        open_source(folder)


def test_compressed_batches_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", [b"1"])
    table = pa.table({"image": [b"x" * 1000]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    path = str(folder / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"\.arrow: its record batches are compressed; save the dataset again"):
        open_source(folder)
