"""The rule of the range: what may be written, and what it is over a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dali_pipelines.depth.decoded import Decoded
from dali_pipelines.depth.source import levels
from dali_pipelines.depth.value_range import Rule, Sample, parse_value_range, resolve


def sample(values: Any, bounds: tuple[float, float] | None = None) -> Sample:
    array = np.asarray(values)
    array = array[:, None] if array.ndim == 1 else array
    return Sample(array.dtype, array.min(0).astype(float), array.max(0).astype(float), bounds, array.astype(np.float64))


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("auto", Rule("auto")),
        ("window", Rule("window")),
        ("percentiles(1, 99.5)", Rule("percentiles", (1, 99.5))),
        ("percentiles( 0,100 )", Rule("percentiles", (0, 100))),
        ([0, 4095], Rule("pairs", pairs=((0, 4095),))),
        ((-1000.5, 3e3), Rule("pairs", pairs=((-1000.5, 3000),))),
        ([[0, 1], [2, 3]], Rule("pairs", pairs=((0, 1), (2, 3)))),
        (((np.float32(0), np.int64(5)),), Rule("pairs", pairs=((0, 5),))),
    ],
)
def test_what_may_be_written(value: Any, rule: Rule) -> None:
    assert parse_value_range(value) == rule
    assert parse_value_range(rule) is rule


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("full", r"data.value_range: 'full' is not allowed; it must be auto, window, percentiles\(p, q\), \[lo, hi\]"),
        ("percentiles(99, 1)", r"'percentiles\(99, 1\)' is not allowed; .* with 0 <= p < q <= 100"),
        ("percentiles(1, 101)", "0 <= p < q <= 100"),
        ("percentiles(a, 1)", "0 <= p < q <= 100"),
        ("percentiles(1)", "it must be auto"),
        ([4095, 0], r"\[4095, 0\] is not allowed; the first value must be less than the second"),
        ([[0, 1], [2, 2]], r"\[2, 2\] is not allowed"),
        ([0, 1, 2], r"\[0, 1, 2\] is not allowed; it must be auto"),
        ([0, "1"], "is not allowed; it must be auto"),
        ([0, float("inf")], "is not allowed; it must be auto"),
        ([0, True], "is not allowed; it must be auto"),
        ([[0, 1], 2], "is not allowed; it must be auto"),
        ([], "is not allowed; it must be auto"),
        (None, "is not allowed; it must be auto"),
        ({"lo": 1}, "is not allowed; it must be auto"),
    ],
)
def test_what_may_not(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^data.value_range: .*{message.removeprefix('data.value_range: ')}"):
        parse_value_range(value, key="data.value_range")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([3, 1023], np.uint16), (0, 1023)),
        (np.array([3, 1024], np.uint16), (0, 4095)),
        (np.array([3, 4096], np.uint16), (0, 2**14 - 1)),
        (np.array([3, 2**14], np.uint16), (0, 65535)),
        (np.array([3, 65536], np.uint32), (0, 2**32 - 1)),
        (np.array([0.1, 1], np.float32), (0, 1)),
        (np.linspace(-1, 1, 1001), (-0.998, 0.998)),
        (np.linspace(0, 2, 1001), (0.002, 1.998)),
        (np.arange(1001, dtype=np.int16), (1, 999)),
        (np.array([0, 0], np.uint16), (0, 1023)),
        (np.array([1, 1], np.float32), (0, 1)),
    ],
)
def test_auto(values: Any, expected: tuple[float, float]) -> None:
    ((low, high),) = resolve(parse_value_range("auto"), sample(values))
    assert (low, high) == pytest.approx(expected, abs=1e-9)


def test_bounds_of_the_files_count_before_the_values() -> None:
    values = sample(np.array([[3.0, 5], [7, 9]]), bounds=(-1024, 3071))
    assert resolve(parse_value_range("auto"), values) == ((-1024, 3071),) * 2
    assert resolve(parse_value_range("percentiles(0, 100)"), values) == ((3, 7), (5, 9))


def test_pairs_for_channels() -> None:
    values = sample(np.array([[3, 5], [7, 9]]))
    assert resolve(parse_value_range([0, 9]), values) == ((0, 9), (0, 9))
    assert resolve(parse_value_range([[0, 9], [1, 2]]), values) == ((0, 9), (1, 2))
    assert resolve(parse_value_range("window"), values) == "window"
    with pytest.raises(ValueError, match=r"x: 3 pairs are not allowed for images of 2 channel\(s\)"):
        resolve(parse_value_range([[0, 9]] * 3), values, key="x")


@pytest.mark.parametrize(
    ("dtype", "rule"),
    [(np.int16, "auto"), (np.float32, "auto"), (np.uint16, "percentiles(1, 99)"), (np.float32, "percentiles(1, 99)")],
)
def test_a_constant_sample_gives_no_range(rule: str, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"x: the values that the rule uses are all 5 .* such as x=\[0, 4095\]"):
        resolve(parse_value_range(rule), sample(np.full(9, 5, dtype)), key="x")


def test_a_constant_channel_is_named() -> None:
    with pytest.raises(ValueError, match="the values of channel 1 that the rule uses are all 0"):
        resolve(parse_value_range("percentiles(1, 99)"), sample(np.array([[1, 0], [2, 0]])))


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_levels_are_those_of_the_formula(dtype: str) -> None:
    random = np.random.default_rng(0)
    values = random.uniform(0, 255 if dtype == "u1" else 30000, (9, 7, 2)).astype(dtype)
    ranges = ((10.0, 200.0), (100.5, 20000.25))
    exact = values.astype(np.float64)
    expected = np.stack(
        [np.clip((exact[..., i] - low) / (high - low), 0, 1) * 255 for i, (low, high) in enumerate(ranges)], 2
    )
    missing = np.zeros((9, 7, 1), bool)
    missing[3, 3] = True
    mapped = levels(Decoded("", values, 16), ranges)
    assert mapped.dtype == np.float32
    np.testing.assert_allclose(mapped, expected, atol=1e-4)
    inverted = levels(Decoded("", values, 16, is_inverted=True, missing=missing), ranges)
    np.testing.assert_allclose(inverted, np.where(missing, 0, 255 - expected), atol=1e-4)


def test_whole_levels_are_exact() -> None:
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(levels(Decoded("", eight, 8), ((0, 255),)), eight)
    sixteen = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16, 1)
    np.testing.assert_array_equal(levels(Decoded("", sixteen, 16), ((0, 65535),)), eight)
