"""The base of every section of a recipe, and types of its keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from dali_pipelines.storage.urls import check_url, is_url

# No run needs more. A larger value is a typing error, which would otherwise fail much later.
Positive = Annotated[int, Field(ge=1, le=10**9)]
# The largest values of float32 are about 3.4e38.
Rate = Annotated[float, Field(ge=0, le=1e38)]
# A neighbor's vote is at most exp(1 / temperature). Below 0.011 it exceeds float32, and a smaller one becomes NaN.
Temperature = Annotated[float, Field(ge=0.02, le=1e6)]


def _without_secret(path: str) -> str:
    if is_url(path):
        check_url(path)
    return path


# Linux allows paths of 4095 bytes. A URL must have no secret, because recipes are copied into logs and checkpoints.
PathText = Annotated[str, Field(min_length=1, max_length=4095), AfterValidator(_without_secret)]
# Tags are part of the place in an error. A blank tag is left out of messages.
_ONE, _LIST = "", " "


def _tag_of(value: Any) -> str:
    return _LIST if isinstance(value, (list, tuple)) else _ONE


def _not_empty(paths: tuple[str, ...]) -> tuple[str, ...]:
    if not paths:
        raise ValueError("a list must have at least one path")
    return paths


_ListOfPaths = Annotated[
    tuple[PathText, ...], AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1}), Tag(_LIST)
]
# Images at a path, or at the paths of a list.
Paths = Annotated[Annotated[PathText, Tag(_ONE)] | _ListOfPaths, Discriminator(_tag_of)]


def text_of(paths: str | tuple[str, ...]) -> str:
    """Return a path, or a list of paths as a recipe has it, as text for messages and tables.

    Args:
        paths: Value of a recipe's key.
    """
    return paths if isinstance(paths, str) else f"[{', '.join(paths)}]"


class Section(BaseModel):
    """A section of a recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
