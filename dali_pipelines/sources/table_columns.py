"""Find the columns of images and labels in the schema of a table: of a parquet file or an Arrow file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dali_pipelines.sources.list_columns import LABEL_NAMES

CHOICES = ("image", "label")
_IMAGE_RULE = "an image column is binary, or a struct with the binary field 'bytes'"
_LABEL_RULE = "a label column has whole numbers or strings"

LabelKind = Literal["class", "number", "text"]


class Columns(NamedTuple):
    """The columns of a table that are read.

    Args:
        image: Name of the column of images.
        is_struct: Whether an image is a struct, whose field "bytes" has the file.
        label: Name of the column of labels, or None.
        label_kind: "class", an index into `classes`; "number"; or "text".
        classes: Names of the classes, if the schema has them.
    """

    image: str
    is_struct: bool
    label: str | None = None
    label_kind: LabelKind = "text"
    classes: tuple[str, ...] = ()

    @property
    def leaf(self) -> str:
        """The path of the column of bytes in a parquet file."""
        return f"{self.image}.bytes" if self.is_struct else self.image


def import_pyarrow(path: str) -> Any:
    """Import pyarrow, with its modules `parquet` and `compute`.

    Args:
        path: Path that needs it, for the message.

    Raises:
        ValueError: If pyarrow is not installed; the message says how to install it.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path}: needs pyarrow, which is not installed; pip install 'bt-plugin[parquet]'") from error
    return pyarrow


def columns_of(schema: Any, choices: Mapping[str, str]) -> Columns:
    """Return the columns of a schema that are read.

    Without a choice, the image is the one column that the schema calls an Image, as the package datasets writes it.
    Otherwise it is the one struct of bytes and path, or the one binary column. The label is the one ClassLabel of the
    schema, or the one column with the name of a label.

    Args:
        schema: Arrow schema of the file.
        choices: Names of the columns that the user chose: "image" and "label". An empty label means no labels.

    Raises:
        ValueError: If a chosen column does not exist or has another type, or a column is not clear.
    """
    features = _features(schema)
    image = choices["image"] if "image" in choices else _found_image(schema, features)
    type_ = _type_of(schema, image)
    if not _is_image(type_):
        raise ValueError(f"the column {image!r} is {type_}; {_IMAGE_RULE}")
    label = choices["label"] if "label" in choices else _found_label(schema, features)
    if not label:
        return Columns(image, not _is_binary(type_))
    kind = _label_kind(_type_of(schema, label))
    if kind is None:
        raise ValueError(f"the column {label!r} is {_type_of(schema, label)}; {_LABEL_RULE}")
    classes = tuple(features.get(label, {}).get("names") or ()) if kind == "number" else ()
    return Columns(image, not _is_binary(type_), label, "class" if classes else kind, classes)


def _found_image(schema: Any, features: Mapping[str, Mapping[str, Any]]) -> str:
    names: list[str] = schema.names
    kinds = {name: features.get(name, {}).get("_type") for name in names}
    # An Audio is a struct of bytes and path too.
    possible = {name: type_ for name, type_ in zip(names, schema.types) if kinds[name] in (None, "Value", "Image")}
    found = [name for name in possible if kinds[name] == "Image"]
    found = found or [name for name, type_ in possible.items() if _is_image(type_) and not _is_binary(type_)]
    found = found or [name for name, type_ in possible.items() if _is_binary(type_)]
    if not found:
        raise ValueError(f"none of {_shown(schema)} has images; {_IMAGE_RULE}")
    if len(found) > 1:
        raise ValueError(f"the columns {', '.join(found)} could all be the images; add ?image={found[0]} to the path")
    return found[0]


def _found_label(schema: Any, features: Mapping[str, Mapping[str, Any]]) -> str | None:
    names: list[str] = schema.names
    found = [name for name in names if features.get(name, {}).get("_type") == "ClassLabel"]
    found = found or [
        name for name, type_ in zip(names, schema.types) if name.lower() in LABEL_NAMES and _label_kind(type_)
    ]
    if len(found) > 1:
        raise ValueError(
            f"the columns {', '.join(found)} could all be the labels; add ?label={found[0]} to the path, or ?label= for"
            " no labels"
        )
    return found[0] if found else None


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return the features that the package datasets wrote into the schema, by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _type_of(schema: Any, name: str) -> Any:
    if schema.names.count(name) != 1:
        raise ValueError(f"there is no column {name!r} among {_shown(schema)}; add ?image=COLUMN or ?label=COLUMN")
    return schema.field(name).type


def _is_image(type_: Any) -> bool:
    from pyarrow import types

    if not types.is_struct(type_):
        return _is_binary(type_)
    return any(type_.field(n).name == "bytes" and _is_binary(type_.field(n).type) for n in range(type_.num_fields))


def _is_binary(type_: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(type_) or types.is_large_binary(type_)) or str(type_) == "binary_view"


def _label_kind(type_: Any) -> LabelKind | None:
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_string(type_) or types.is_large_string(type_) or str(type_) == "string_view":
        return "text"
    return "number" if types.is_integer(type_) else None


def _shown(schema: Any) -> str:
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return f"the columns {columns[:300]}" if len(schema) else "no columns"
