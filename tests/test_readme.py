"""The Python of the README and the docs runs as it stands, and the files that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
PAGES = {
    page.name: page.read_text() for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
SNIPPETS = [
    pytest.param(snippet, id=f"{name}-{number}")
    for name, text in PAGES.items()
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
]


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 5


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(
    snippet: str, demo_data: Path, small_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(demo_data)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(small_export)
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "snippet", "exec"), {})
    assert len(snippet.splitlines()) <= 12, "ten lines, more or less"


@pytest.mark.parametrize("text", PAGES.values(), ids=PAGES)
def test_every_file_it_names_is_there(text: str) -> None:
    for name in re.findall(r"(?:recipes|docs|benchmarks|tests)/[\w/.-]+\.(?:yaml|md|json|py|png)", text):
        assert (REPOSITORY / name).is_file(), name


def test_the_gate_runs_the_readmes_test_command() -> None:
    assert "make test" in README
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()
