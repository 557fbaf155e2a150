from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipelines.sources.names import Names


@given(st.lists(st.text()))
def test_packed_names_are_the_names(names: list[str]) -> None:
    packed = Names.of(iter(names))
    assert list(packed) == names
    assert [packed[index - len(names)] for index in range(len(names))] == names
    assert list(packed[1::2]) == names[1::2]


def test_bytes_that_are_no_text_survive() -> None:
    """A file's name need not be UTF-8."""
    assert Names.of([b"\xff.jpg".decode(errors="surrogateescape")])[0].encode(errors="surrogateescape") == b"\xff.jpg"


def test_beyond_the_end() -> None:
    with pytest.raises(IndexError):
        Names.of(["a"])[1]
