"""The rule that says which pixel values become 0 and 255: read it, and resolve it over a sample of the images."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pair = tuple[float, float]
# A resolved rule: one pair of each channel, or the window of each DICOM file.
Resolved = tuple[Pair, ...] | Literal["window"]
# What a user may write.
ValueRange = str | Sequence[float] | Sequence[Sequence[float]]

AUTO_PERCENTILES = (0.1, 99.9)
_DEPTHS = (10, 12, 14, 16, 32, 64)
_PERCENTILES = re.compile(r"percentiles\(\s*([^,()\s]+)\s*,\s*([^,()\s]+)\s*\)")
_RULE = "it must be auto, window, percentiles(p, q), [lo, hi], or one pair [lo, hi] for each channel"


class Rule(NamedTuple):
    """A rule as the user chose it.

    Args:
        kind: How the range is found.
        percentiles: Percentiles that become 0 and 255, in percent. Only for "percentiles".
        pairs: Values that become 0 and 255: one pair for all channels, or one of each. Only for "pairs".
    """

    kind: Literal["auto", "window", "percentiles", "pairs"]
    percentiles: Pair = AUTO_PERCENTILES
    pairs: tuple[Pair, ...] = ()


class Sample(NamedTuple):
    """What the sample of the images says about their values.

    Args:
        dtype: Type of the pixels.
        least: Smallest value of each channel, (C,) float64.
        most: Largest value of each channel, (C,) float64.
        bounds: Range of the values that the files can hold, if their headers say it.
        values: Some pixels of all sampled images, (n, C) float64.
    """

    dtype: np.dtype[Any]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    bounds: Pair | None
    values: NDArray[np.float64]


def parse_value_range(value: Any, *, key: str = "value_range") -> Rule:
    """Return the rule that a value of a recipe or an argument names.

    Args:
        value: "auto", "window", "percentiles(p, q)", a pair (lo, hi), or one pair of each channel.
        key: Name of the key or argument, for messages.

    Raises:
        ValueError: If it is none of these, or a pair is not in ascending order.

    Examples:
        >>> parse_value_range("percentiles(1, 99)")
        >>> parse_value_range([0, 4095])
    """
    if isinstance(value, Rule):
        return value
    if isinstance(value, str):
        if value.strip() == "auto":
            return Rule("auto")
        if value.strip() == "window":
            return Rule("window")
        found = _PERCENTILES.fullmatch(value.strip())
        if not found:
            raise ValueError(f"{key}: {value[:100]!r} is not allowed; {_RULE}")
        low, high = (_number(text) for text in found.groups())
        if low is None or high is None or not 0 <= low < high <= 100:
            raise ValueError(
                f"{key}: {value[:100]!r} is not allowed; p and q must be percentages with 0 <= p < q <= 100, such as"
                " percentiles(0.1, 99.9)"
            )
        return Rule("percentiles", percentiles=(low, high))
    pairs = _pairs(value)
    if pairs is None:
        raise ValueError(f"{key}: {str(value)[:100]} is not allowed; {_RULE}")
    for low, high in pairs:
        if not low < high:
            raise ValueError(
                f"{key}: [{low:g}, {high:g}] is not allowed; the first value must be less than the second, because it"
                " becomes 0 and the second becomes 255"
            )
    return Rule("pairs", pairs=pairs)


def resolve(rule: Rule, sample: Sample, *, key: str = "value_range") -> Resolved:
    """Return the range of each channel by a fixed rule over the sample, or "window".

    Args:
        rule: Rule of the user.
        sample: Statistics of the sampled images.
        key: Name of the key or argument, for messages.

    Raises:
        ValueError: If the pairs do not match the channels, or the sampled values are constant.
    """
    channels = len(sample.least)
    if rule.kind == "window":
        return "window"
    if rule.kind == "pairs":
        return pairs_of_channels(rule, channels, key=key)
    if rule.kind == "auto":
        fixed = _fixed_range(sample)
        if fixed:
            return (fixed,) * channels
    low, high = np.percentile(sample.values, rule.percentiles, axis=0)
    pairs = tuple((float(first), float(last)) for first, last in zip(low, high))
    _check_constant(pairs, sample, key)
    return pairs


def pairs_of_channels(rule: Rule, channels: int, *, key: str = "value_range") -> tuple[Pair, ...]:
    """Return the pair of each channel.

    Args:
        rule: Rule with pairs.
        channels: Number of channels of the images.
        key: Name of the key or argument, for messages.

    Raises:
        ValueError: If there is neither one pair nor one for each channel.
    """
    if len(rule.pairs) not in (1, channels):
        raise ValueError(
            f"{key}: {len(rule.pairs)} pairs are not allowed for images of {channels} channel(s); give one pair"
            " [lo, hi], or one for each channel"
        )
    return rule.pairs if len(rule.pairs) == channels else rule.pairs * channels


def _fixed_range(sample: Sample) -> Pair | None:
    """Return the range that the type of the pixels implies, or None if it implies none."""
    if sample.bounds is not None:
        return sample.bounds
    most = sample.most.max()
    if sample.dtype.kind == "u":
        bits = next(bits for bits in _DEPTHS if most < 2**bits or bits == _DEPTHS[-1])
        return 0.0, float(2**bits - 1)
    if sample.dtype.kind == "f" and sample.least.min() >= 0 and most <= 1:
        return 0.0, 1.0
    return None


def _check_constant(pairs: Sequence[tuple[Any, Any]], sample: Sample, key: str) -> None:
    for channel, (low, high) in enumerate(pairs):
        if not low < high:
            of_channel = f" of channel {channel}" if len(sample.least) > 1 and len(pairs) > 1 else ""
            raise ValueError(
                f"{key}: the values{of_channel} that the rule uses are all {low:g} in the sampled images, so they give"
                f" no range; give the range, such as {key}=[0, 4095], or leave out such images and channels"
            )


def _pairs(value: Any) -> tuple[Pair, ...] | None:
    """Return one or more pairs of finite numbers, or None if the value is something else."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    rows = value if all(isinstance(each, (list, tuple)) for each in value) else [value]
    pairs = []
    for row in rows:
        numbers = [None if isinstance(each, str) else _number(each) for each in row]
        if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
            return None
        pairs.append((numbers[0], numbers[1]))
    return tuple(pairs)


def _number(value: Any) -> float | None:
    """Return a finite number, or None. In percentiles(p, q) it is text."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
