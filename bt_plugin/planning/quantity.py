"""A number of a plan, with the way in which it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["computed", "measured", "published", "assumed"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number, or a range of numbers.

    Args:
        name: What it is.
        low: The number, or the lower end of the range.
        high: The upper end of the range. It is ``low`` for a single number.
        unit: Unit, as in "GiB". Empty for a count.
        kind: How the number is known. "computed": from the traced step or from the recipe. "measured": from a record
            of this project. "published": from measurements of others. "assumed": from no measurement.
        source: Where it comes from: a formula, a record or a publication.
    """

    name: str
    low: float
    high: float
    unit: str
    kind: Kind
    source: str


def quantity(name: str, value: float, unit: str, *, kind: Kind, source: str, high: float | None = None) -> Quantity:
    """Return a number, or a range if ``high`` is given."""
    return Quantity(name=name, low=value, high=value if high is None else high, unit=unit, kind=kind, source=source)
