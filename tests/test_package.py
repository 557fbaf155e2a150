"""What a wheel holds: both packages and the recipes, which work where no repository is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_a_wheel_brings_its_recipes(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("bt_plugin-*.whl")
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(installed)
    recipes = [file.relative_to(REPOSITORY) for file in (REPOSITORY / "recipes").rglob("*") if file.is_file()]
    assert {f"bt_plugin/{file}" for file in recipes} <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    env = {**os.environ, "PYTHONPATH": str(installed)}
    for arguments, said in (
        (["recipes", "quickstart"], str(installed / "bt_plugin" / "recipes" / "pretrain" / "quickstart.yaml")),
        (["check", "quickstart", "--num-images", "2000"], "180 steps in all"),
    ):
        command = [sys.executable, "-m", "bt_plugin", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
        assert said in result.stdout, result.stderr
