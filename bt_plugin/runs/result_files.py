"""Read the results in a run's directory. Damaged files are left out with a warning, because they are only shown."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dali_pipelines.regular_files import read_regular

logger = logging.getLogger(__name__)

_MOST_BYTES = 2**24

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Result(BaseModel):
    """A file of results. Subclasses list the keys that are checked; other keys are kept unchecked."""

    model_config = ConfigDict(extra="allow")


class Summary(Result):
    """The keys of RUN/summary.json that are read."""

    step: Annotated[int, Field(ge=0)] | None = None
    epochs: float | None = None
    world_size: int | None = None
    device: str | None = None
    mixed_precision: str | None = None
    knn_top1: dict[str, Fraction] | None = None
    linear_top1: dict[str, Fraction] | None = None
    val_images: Annotated[int, Field(ge=1)] | None = None
    view_retrieval_top1: dict[str, Fraction] | None = None
    view_retrieval_images: Annotated[int, Field(ge=1)] | None = None
    rankme: dict[str, NonNegative] | None = None
    effective_rank: dict[str, NonNegative] | None = None
    lidar: dict[str, NonNegative] | None = None


class EvaluationResult(Result):
    """The keys of RUN/eval/*.json that are read."""

    method: str
    top1: Fraction
    top1_interval: tuple[Fraction, Fraction] | None = None
    date: str | None = None


def read_result(path: Path, kind: type[Result]) -> dict[str, Any]:
    """Read a JSON file of results.

    Args:
        path: The file.
        kind: Class that describes the keys.

    Returns:
        The content of the file. It is empty if the file is missing, or damaged, which logs a warning.
    """
    if not os.path.lexists(path):
        return {}
    try:
        return kind.model_validate_json(read_regular(path, _MOST_BYTES)).model_dump(exclude_unset=True)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        reason = ": ".join(filter(None, (".".join(map(str, detail["loc"])), detail["msg"])))
    except OSError as error:
        reason = str(error.strerror or error)
    logger.warning("%s is left out: %s", path, reason)
    return {}
