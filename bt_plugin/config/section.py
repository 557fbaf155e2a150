"""The base of every section of a recipe, and types of its keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# No run needs more. A larger value is a typing error, which would otherwise fail much later.
Positive = Annotated[int, Field(ge=1, le=10**9)]
# The largest values of float32 are about 3.4e38.
Rate = Annotated[float, Field(ge=0, le=1e38)]
# Linux allows paths of 4095 bytes.
PathText = Annotated[str, Field(min_length=1, max_length=4095)]


class Section(BaseModel):
    """A section of a recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
