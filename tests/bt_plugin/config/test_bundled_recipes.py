"""Recipes of the package are found by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bt_plugin.cli import main
from bt_plugin.config.bundled_recipes import bundled_recipes, find_recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "recipes" / "pretrain" / "quickstart.yaml"


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.yaml", "pretrain/quickstart", "recipes/pretrain/quickstart.yaml"]
)
def test_from_anywhere_and_by_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == QUICKSTART
    assert load_recipe(name) == load_recipe(QUICKSTART)


def test_the_users_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("data: {train: mine}\nrun: {output_dir: mine}\n")
    assert load_recipe("quickstart").data.train == "mine"


@pytest.mark.parametrize(("name", "said"), [("quickstrat", "did you mean quickstart"), ("zzz", "bt-plugin recipes")])
def test_what_is_nowhere_is_named(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=f"{name}: is neither a file nor a bundled recipe; .*{said}"):
        load_recipe(name)


def test_names_are_told_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(bundled_recipes()) >= 18
    assert any(line.startswith("pretrain/quickstart ") and "Barlow Twins on 1,560" in line for line in lines)
    assert main(["recipes", "accelerate/cpu"]) == 0
    assert capsys.readouterr().out.strip() == str(REPOSITORY / "recipes" / "accelerate" / "cpu.yaml")


def test_short_names_are_of_one_recipe_each() -> None:
    short = [Path(name).name for name in bundled_recipes()]
    assert len(set(short)) == len(short)
