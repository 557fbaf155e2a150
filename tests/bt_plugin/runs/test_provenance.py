"""The commit is this package's, not that of a repository around it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bt_plugin import __version__
from bt_plugin.runs.provenance import commit, versions


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_checkout_has_a_commit(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    (package / "new.py").write_text("")
    assert commit(package) == head
    (package / "__init__.py").write_text("changed")
    assert commit(package) == f"{head}+changes"


def test_somebody_elses_repository_is_not_it(tmp_path: Path) -> None:
    installed = tmp_path / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    (tmp_path / "theirs.txt").write_text("")
    git(tmp_path, "add", "theirs.txt")
    git(tmp_path, "commit", "-qm", "first")
    assert commit(installed) is None, "an editable installation, whose commit only git knows"


def test_versions_are_those_that_are_installed() -> None:
    import torch

    found = versions()
    assert found["bt-plugin"] == __version__
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
