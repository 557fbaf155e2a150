"""The Python of the README and the docs runs as it stands, and the files that they name are there."""

from __future__ import annotations

import doctest
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

import bt_plugin
import dali_pipelines
from tests.conftest import REPOSITORY
from tests.test_docs import script

README = (REPOSITORY / "README.md").read_text()
PAGES = {
    page.name: page.read_text() for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
SNIPPETS = {name: re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) for name, text in PAGES.items()}
SNIPPETS = {name: snippets for name, snippets in SNIPPETS.items() if snippets}
API = [
    *(f"bt_plugin.{name}" for name in ("pretrain", "check", "evaluate", "embed", "load_backbone", "export")),
    *("bt_plugin.import_weights", "bt_plugin.list_recipes", "bt_plugin.load_recipe", "dali_pipelines.dataset_source"),
]


def test_there_are_snippets() -> None:
    assert sum(map(len, SNIPPETS.values())) >= 5


@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_run(
    page: str, demo_data: Path, small_export: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page; what one names, the next ones have."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(demo_data)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(small_export)
    (tmp_path / "runs" / "mine").symlink_to(trained_run)
    (tmp_path / "scans" / "ct").mkdir(parents=True)
    for number in range(64):
        np.save(
            tmp_path / "scans" / "ct" / f"{number}.npy",
            np.arange(number, number + 1600, dtype=np.int16).reshape(40, 40),
        )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, snippet in enumerate(SNIPPETS[page]):
        exec(compile(snippet, f"snippet {number} of {page}", "exec"), names)
        assert len(snippet.splitlines()) <= 15, "a dozen lines, more or less"


@pytest.mark.parametrize("name", API)
def test_examples_of_the_python_api_run(
    name: str, demo_data: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(demo_data)
    shutil.copytree(trained_run, tmp_path / "runs" / "quickstart")
    torch.save(bt_plugin.build_backbone("torchvision/resnet18").module.state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.chdir(tmp_path)
    names = {"bt_plugin": bt_plugin, "torchvision": torchvision, "TwoViewLoader": dali_pipelines.TwoViewLoader}
    package, _, attribute = name.partition(".")
    documented = getattr({"bt_plugin": bt_plugin, "dali_pipelines": dali_pipelines}[package], attribute)
    (examples,) = doctest.DocTestFinder(recurse=False).find(documented, name, globs={**names, attribute: documented})
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0


@pytest.mark.parametrize("text", PAGES.values(), ids=PAGES)
def test_every_file_it_names_is_there(text: str) -> None:
    for name in re.findall(r"(?:recipes|docs|benchmarks|tests)/[\w/.-]+\.(?:yaml|md|json|py|png)", text):
        assert (REPOSITORY / name).is_file(), name


def test_the_gate_runs_the_readmes_test_command() -> None:
    assert "make test" in README
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()


def test_every_python_file_it_names_is_there() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    of_the_official_code = {"main.py", "evaluate.py"}
    known = {Path(name).name for name in tracked.split()} | of_the_official_code
    for name, text in PAGES.items():
        assert set(re.findall(r"[\w-]+\.py\b", re.sub(r"https?://\S+", "", text))) <= known, name


def test_the_readmes_rates_are_of_the_record_it_links() -> None:
    """The rates in the text come from one record, which the text links and the chart shows."""
    found = re.search(
        r"runs at (\d+) images/s. The official code reaches (\d+), Lightly (\d+) and solo-learn (\d+) "
        r"\(\[record\]\((\S+)\)\)",
        README.replace("\n", " "),
    )
    assert found
    *rates, link = found.groups()
    results = json.loads((REPOSITORY / link).read_text())["results"]
    measured = [results[name]["images_per_s"] for name in ("ours", "official", "lightly", "solo-learn")]
    assert [int(rate) for rate in rates] == [round(rate) for rate in measured]
    assert Path(link).name == script("comparison_chart").TRAINING


def test_the_chart_shows_the_records() -> None:
    """The picture keeps the numbers that it was drawn from; python docs/comparison_chart.py draws it anew."""
    chart = script("comparison_chart")
    with Image.open(chart.PICTURE) as picture:
        assert json.loads(picture.text["Description"]) == json.loads(chart.description())
    assert all(next(iter(panel.rates)) == "bt-plugin" for panel in chart.panels())


def test_the_chart_of_signs_shows_its_record() -> None:
    """python docs/signs_chart.py draws it anew."""
    chart = script("signs_chart")
    with Image.open(chart.PICTURE) as picture:
        assert json.loads(picture.text["Description"]) == json.loads(chart.description())
