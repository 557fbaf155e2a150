"""Inputs of the fuzzer, replayed: seeds, and whatever once found a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
_FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", _FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_only_promised_errors_come_through(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_an_empty_file(name: str) -> None:
    TARGETS[name](b"")


def test_each_reader_has_small_seeds() -> None:
    assert {path.parent.name for path in _FILES} == set(TARGETS)
    assert max(path.stat().st_size for path in _FILES) <= 4096
