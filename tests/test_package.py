"""What a wheel and an sdist hold: both packages and the recipes, which work where no repository is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def wheel_of(source: Path, folder: Path) -> Path:
    # hatchling is among the tests' packages: an environment of its own for each build takes its download and seconds.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    build = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("bt_plugin-*.whl")
    return wheel


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(REPOSITORY, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_brings_its_recipes(wheel: Path, tmp_path: Path) -> None:
    names = names_in(wheel)
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    recipes = [file.relative_to(REPOSITORY) for file in (REPOSITORY / "recipes").rglob("*") if file.is_file()]
    assert {f"bt_plugin/{file}" for file in recipes} <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    env = {**os.environ, "PYTHONPATH": str(installed)}
    for arguments, said in (
        (["recipes", "quickstart"], str(installed / "bt_plugin" / "recipes" / "pretrain" / "quickstart.yaml")),
        (["check", "quickstart", "--num-images", "2000"], "450 steps in all"),
    ):
        command = [sys.executable, "-m", "bt_plugin", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
        assert said in result.stdout, result.stderr


def test_an_sdist_is_the_repository_and_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True, cwd=REPOSITORY)
    (sdist,) = tmp_path.glob("bt_plugin-*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert {"bt_plugin", "dali_pipelines", "recipes", "tests", "docs", "LICENSE", "README.md"} <= tops
    assert not tops & {"data", "runs", "site", "build", "dist"}
    assert names_in(wheel_of(sdist, tmp_path)) == names_in(wheel)


def test_the_context_of_the_image_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        source = REPOSITORY / line[1:]
        if line.startswith("!"):
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, tmp_path / source.name)
    assert names_in(wheel_of(tmp_path, tmp_path / "wheel")) == names_in(wheel)
