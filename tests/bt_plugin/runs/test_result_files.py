"""Damaged results are left out with a warning; sound ones are read whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bt_plugin.runs.result_files import EvaluationResult, Summary, read_result

SOUND = {"step": 3, "knn_top1": {"raw": 0.5}, "run": "runs/a", "own": {"key": [1]}}


def test_a_sound_result_is_read_with_all_its_keys(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SOUND))
    assert read_result(tmp_path / "summary.json", Summary) == SOUND
    assert read_result(tmp_path / "none.json", Summary) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0\0\0", b"[1, 2]", b"nothing", b"\xff\xfe{}", b"[" * 100_000, b'{"step": ' + b"9" * 5000 + b"}",
        b'{"step": -1}', b'{"step": "many"}', b'{"step": 1, "knn_top1": [1]}', b'{"step": 1, "knn_top1": {"raw": "x"}}',
        b'{"step": 1, "knn_top1": {"raw": 7}}', b'{"step": 1, "device": {}}', json.dumps(SOUND).encode()[:-5],
    ],
)  # fmt: skip
def test_a_damaged_result_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "summary.json").write_bytes(content)
    assert read_result(tmp_path / "summary.json", Summary) == {}
    assert "summary.json is left out: " in caplog.text


def test_other_than_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        assert read_result(tmp_path / name, EvaluationResult) == {}
        assert name in caplog.text
