"""A report shows what is sound of a run, whatever has happened to its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bt_plugin.errors import UserError
from bt_plugin.report.write import write_report


def reported(run: Path) -> str:
    output = run.parent / "page.html"
    output.unlink(missing_ok=True)
    write_report([run], output, map_images=0)
    return output.read_text(encoding="utf-8")


def test_damaged_files_are_left_out(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copied / "eval").mkdir(exist_ok=True)
    for name, content in {
        "metrics.jsonl": (copied / "metrics.jsonl").read_bytes() + b'\0\n[]\n{"step": 1e999}\n\xff\n',
        "evaluations.jsonl": b"{}\n\n\n",
        "summary.json": b'{"step": "twelve", "knn_top1": 3}',
        "export/model.json": b'{"versions": ["a"]}',
        "eval/knn-1.json": b'{"method": 3, "top1": "x"}',
        "eval/knn-2.json": b"[" * 50_000,
        "eval/knn-3.json": b'{"method": "knn", "top1": 0.123, "top1_interval": [0.1]}',
        "eval/knn-4.json": b'{"method": "knn", "top1": 0.875, "date": "then"}',
        "pictures/step-abc.npz": b"",
        "pictures/step-4.npz": b"",
    }.items():
        (copied / name).write_bytes(content)
    page = reported(copied)
    assert "87.5%" in page
    assert "12.3%" not in page
    for name in ("metrics.jsonl", "summary.json", "model.json", "knn-1.json", "knn-2.json", "knn-3.json", "step-4.npz"):
        assert f"{name}" in caplog.text, name


@pytest.mark.parametrize("content", [b"", b"\0", b"data: [", b"a: 1", b"\xff\xfe"])
def test_a_run_without_a_sound_recipe_is_refused_by_its_path(copied: Path, content: bytes) -> None:
    (copied / "recipe.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        reported(copied)


def test_names_that_are_not_utf8_are_shown_by_a_replacement(copied: Path) -> None:
    strange = Path(shutil.copytree(copied, copied.parent / "caf\udce9"))
    command = [sys.executable, "-m", "bt_plugin", "report", os.fsencode(strange), "--map-images", "0"]
    result = subprocess.run(command, capture_output=True)
    assert result.returncode == 0
    assert rb"caf\udce9" in result.stdout
    assert "caf?" in (strange / "report.html").read_text(encoding="utf-8")
