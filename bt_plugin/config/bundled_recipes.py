"""The recipes that come with the package, found by their names wherever it is installed."""

from __future__ import annotations

import difflib
from pathlib import Path

from bt_plugin.errors import RecipeError

_SUFFIXES = (".yaml", ".sbatch")


def recipes_folder() -> Path:
    """Of a wheel, or of the repository."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir())


def bundled_recipes() -> dict[str, Path]:
    """Every recipe by its name, such as pretrain/quickstart."""
    folder = recipes_folder()
    files = sorted(file for file in folder.rglob("*") if file.suffix in _SUFFIXES)
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def find_recipe(path: str | Path) -> Path:
    """A file of the user's, or else a bundled recipe.

    Args:
        path: Of a file; or recipes/pretrain/quickstart.yaml, pretrain/quickstart or quickstart.

    Raises:
        RecipeError: If there is neither.
    """
    if Path(path).exists():
        return Path(path)
    wanted = Path(path).with_suffix("").as_posix().removeprefix("recipes/")
    bundled = bundled_recipes()
    for name, file in bundled.items():
        if wanted in (name, Path(name).name):
            return file
    near = difflib.get_close_matches(wanted, [*bundled, *(Path(name).name for name in bundled)], n=1)
    remedy = f"did you mean {near[0]}?" if near else "`bt-plugin recipes` lists those that come with it"
    raise RecipeError(f"{path}: is no file, and no recipe of this package; {remedy}")
