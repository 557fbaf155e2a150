"""The examples of docs/from_python.md run in a notebook's kernel: on two launched processes, and in the kernel."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "from_python.md").read_text()


@pytest.mark.distributed
def test_a_notebook_trains_on_two_processes_and_in_its_own(demo_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(demo_data)
    (launched,) = re.findall(r"```py\n(.*?)```", PAGE, flags=re.DOTALL)
    first, *_ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    again = 'bt_plugin.pretrain("quickstart", {**quick, "run.output_dir": "runs/second", "run.deterministic": True})'
    cells = [nbformat.v4.new_code_cell(text) for text in (launched, first, again)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    summaries = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/summary.json")}
    assert {name: summary["world_size"] for name, summary in summaries.items()} == {
        "two_processes": 2,
        "first": 1,
        "second": 1,
    }
    assert summaries["two_processes"]["step"] == 4
    texts = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert "pretrain: 100%" in texts[1], "a bar of the progress"
