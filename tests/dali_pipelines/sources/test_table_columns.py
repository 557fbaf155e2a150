"""Which columns of a table are the images and the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dali_pipelines import open_source
from dali_pipelines.sources.table_columns import Columns, columns_of
from tests.parquet_files import IMAGE, write_columns

CLASSES = {"_type": "ClassLabel", "names": ["a", "b"]}


def schema(features: dict[str, Any] | None = None, **columns: pa.DataType) -> pa.Schema:
    metadata = None if features is None else {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata)


@pytest.mark.parametrize(
    ("given", "choices", "expected"),
    [
        (schema(image=IMAGE, label=pa.int64()), {}, Columns("image", True, "label", "number")),
        (schema(photo=pa.binary(), kind=pa.string()), {}, Columns("photo", False)),
        (schema(jpg=pa.large_binary(), Class=pa.large_string()), {}, Columns("jpg", False, "Class", "text")),
        (schema(x=IMAGE, y=pa.dictionary(pa.int8(), pa.string())), {}, Columns("x", True, "y", "text")),
        # A struct is an image before a binary column is, and what datasets calls an Image before both.
        (schema(image=IMAGE, depth=pa.binary()), {}, Columns("image", True)),
        (schema({"b": {"_type": "Image"}}, a=IMAGE, b=IMAGE), {}, Columns("b", True)),
        (schema({"a": {"_type": "Audio"}, "b": {"_type": "Image"}}, a=IMAGE, b=IMAGE), {}, Columns("b", True)),
        (schema({"a": {"_type": "Audio"}}, a=IMAGE, b=pa.binary()), {}, Columns("b", False)),
        # A ClassLabel is a label before a column with the name of one is.
        (
            schema({"fine": CLASSES}, image=IMAGE, fine=pa.int64(), label=pa.string()),
            {},
            Columns("image", True, "fine", "class", ("a", "b")),
        ),
        (schema(image=IMAGE, label=pa.float32()), {}, Columns("image", True)),
        (schema(a=IMAGE, b=IMAGE, c=pa.string()), {"image": "b", "label": "c"}, Columns("b", True, "c", "text")),
        (schema(image=IMAGE, label=pa.int64(), target=pa.int64()), {"label": ""}, Columns("image", True)),
    ],
)
def test_columns_that_are_clear(given: pa.Schema, choices: dict[str, str], expected: Columns) -> None:
    assert columns_of(given, choices) == expected


@pytest.mark.parametrize(
    ("given", "choices", "message"),
    [
        (schema(left=IMAGE, right=IMAGE), {}, r"left, right could all be the images; add \?image=left"),
        (schema(a=pa.binary(), b=pa.binary()), {}, r"a, b could all be the images"),
        (
            schema(image=IMAGE, label=pa.int8(), target=pa.int8()),
            {},
            r"label, target could all be the labels; add \?la",
        ),
        (
            schema({"f": CLASSES, "c": CLASSES}, i=IMAGE, f=pa.int64(), c=pa.int64()),
            {},
            r"\?label=f .* or \?label= for",
        ),
        (schema(path=pa.string()), {}, r"none of the columns path \(string\) has images; an image column is binary"),
        (schema(image=pa.list_(IMAGE)), {}, "none of the columns image"),
        (schema(), {}, "none of no columns has images"),
        (schema(image=IMAGE), {"image": "photo"}, r"no column 'photo' among the columns image \(struct"),
        (schema(image=IMAGE), {"label": "kind"}, "no column 'kind'"),
        (schema(image=IMAGE, id=pa.int64()), {"image": "id"}, "'id' is int64; an image column is binary"),
        (schema(image=IMAGE, x=pa.float64()), {"label": "x"}, "'x' is double; a label column has whole numbers"),
    ],
)
def test_columns_that_are_not_clear_are_named(given: pa.Schema, choices: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        columns_of(given, choices)


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (pa.array([10, 9, 9]), ("9", "10"), [1, 0, 0]),
        (pa.array([3, 0, 3], pa.uint8()), ("0", "3"), [1, 0, 1]),
        (pa.array(["b", "a", "b"]), ("a", "b"), [1, 0, 1]),
        (pa.array(["10", "9", "9"], pa.large_string()), ("9", "10"), [1, 0, 0]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b"), [1, 0, 1]),
    ],
)
def test_labels_of_every_type(tmp_path: Path, labels: pa.Array, classes: tuple[str, ...], numbers: list[int]) -> None:
    """Two files, of which the second has the labels in another order."""
    for name, column in (("1", labels), ("2", pa.array(labels.to_pylist()[::-1], labels.type))):
        write_columns(tmp_path / f"{name}.parquet", image=pa.array([b"x"] * 3, pa.large_binary()), label=column)
    source = open_source(f"{tmp_path}/*.parquet")
    assert source.classes == classes
    assert source.labels.tolist() == numbers + numbers[::-1]
    assert source.read(5).tobytes() == b"x"


@pytest.mark.parametrize(
    ("labels", "features", "message"),
    [
        (["a", None], {}, "the label of row 1, column 'label', is null; give every row a label"),
        (["a", " "], {}, "row 1, column 'label', is empty"),
        (["a", "b" * 1001], {}, "row 1, column 'label', has 1001 characters, more than 1000"),
        ([0, None], {}, "is null"),
        ([2**63, 1], {}, "2.parquet: "),
        ([1, 2], {"label": CLASSES}, "row 1, column 'label', is 2, and there are 2 classes"),
        ([0, -1], {"label": CLASSES}, "is -1, and other rows have a class"),
    ],
)
def test_labels_that_are_not_valid_are_named(
    tmp_path: Path, labels: list[Any], features: dict[str, Any], message: str
) -> None:
    from pyarrow import parquet

    column = pa.array(labels, pa.uint64()) if 2**63 in labels else pa.array(labels)
    table = pa.table({"image": [b"x", b"y"], "label": column})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "2.parquet")
    assert not open_source(f"{tmp_path}/2.parquet?label=").has_labels


def test_a_test_split_without_labels_has_none(tmp_path: Path) -> None:
    """The package datasets writes -1 for a class that is not known."""
    from tests.parquet_files import write_parquet

    source = open_source(write_parquet(tmp_path / "test.parquet", [b"x"] * 2, [-1, -1], classes=["a", "b"]))
    assert not source.has_labels


@pytest.mark.skipif(int(pa.__version__.split(".")[0]) < 21, reason="pyarrow 21 is the first that writes views")
def test_columns_of_views(tmp_path: Path) -> None:
    """Polars writes columns of these types."""
    images = pa.array([b"1", None, b"3" * 100], pa.binary_view())
    labels = pa.array(["b", "a", "b"], pa.string_view())
    source = open_source(write_columns(tmp_path / "a.parquet", image=images, label=labels))
    assert source.labels.tolist() == [1, 0, 1]
    assert [source.read(index).tobytes() for index in (0, 2)] == [b"1", b"3" * 100]
    with pytest.raises(ValueError, match="the image is null"):
        source.read(1)


def test_choices_are_checked(tmp_path: Path) -> None:
    write_columns(tmp_path / "a.parquet", image=[b"x"], photo=[b"y"])
    assert open_source(f"{tmp_path}/a.parquet?image=photo").read(0).tobytes() == b"y"
    for tail in ("images=photo", "image=a&image=b", "image=photo&x=y"):
        with pytest.raises(ValueError, match=r"is not allowed; it may have image=NAME and label=NAME"):
            open_source(f"{tmp_path}/a.parquet?{tail}")
