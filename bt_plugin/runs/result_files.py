"""Read the results that a run's directory holds; a damaged one, which is only shown, is left out with a warning."""

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


class Result(BaseModel):
    """A file of results; other keys than those below are kept as they are."""

    model_config = ConfigDict(extra="allow")


class Summary(Result):
    """RUN/summary.json, what is read of it."""

    step: Annotated[int, Field(ge=0)] | None = None
    epochs: float | None = None
    world_size: int | None = None
    device: str | None = None
    mixed_precision: str | None = None
    knn_top1: dict[str, Fraction] | None = None


class EvaluationResult(Result):
    """RUN/eval/*.json, what is read of it."""

    method: str
    top1: Fraction
    top1_interval: tuple[Fraction, Fraction] | None = None
    date: str | None = None


def read_result(path: Path, kind: type[Result]) -> dict[str, Any]:
    """Read a JSON file of results.

    Args:
        path: The file.
        kind: What it must hold.

    Returns:
        Its content; empty where there is no such file, or a damaged one, of which a warning is logged.
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
