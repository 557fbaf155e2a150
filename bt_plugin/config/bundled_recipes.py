"""Find the recipes that come with the package, wherever it is installed."""

from __future__ import annotations

import difflib
from pathlib import Path

from bt_plugin.errors import RecipeError

_SUFFIXES = (".yaml", ".sbatch")


def recipes_folder() -> Path:
    """Return the folder of the bundled recipes, of an installed wheel or of the repository."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir())


def bundled_recipes() -> dict[str, Path]:
    """Return the file of each bundled recipe by its name, such as pretrain/quickstart."""
    folder = recipes_folder()
    files = sorted(file for file in folder.rglob("*") if file.suffix in _SUFFIXES)
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def find_recipe(path: str | Path) -> Path:
    """Return the user's file if it exists, else the bundled recipe of that name.

    Args:
        path: Path of a file, or name of a bundled recipe: recipes/pretrain/quickstart.yaml, pretrain/quickstart or
            quickstart.

    Raises:
        RecipeError: If there is neither a file nor a bundled recipe.
    """
    if Path(path).exists():
        return Path(path)
    wanted = Path(path).with_suffix("").as_posix().removeprefix("recipes/")
    bundled = bundled_recipes()
    for name, file in bundled.items():
        if wanted in (name, Path(name).name):
            return file
    near = difflib.get_close_matches(wanted, [*bundled, *(Path(name).name for name in bundled)], n=1)
    remedy = f"did you mean {near[0]}?" if near else "`bt-plugin recipes` lists the bundled ones"
    raise RecipeError(f"{path}: is neither a file nor a bundled recipe; {remedy}")
