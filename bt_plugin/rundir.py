"""The directory of a run: whose it is, and what lies where.

RUN/recipe.yaml              every key, as it was resolved
RUN/metrics.jsonl            one line every run.log_every_steps
RUN/tensorboard/             the same
RUN/checkpoint-STEP/         what a run continues from
RUN/export/                  backbone and projector, for other programs
RUN/summary.json             the result
"""

from __future__ import annotations

import os
from pathlib import Path

from bt_plugin.errors import RecipeError
from bt_plugin.recipe import Recipe
from bt_plugin.recipe_file import load_recipe

RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
EXPORT = "export"
SUMMARY = "summary.json"

# What may change between two launches of one run, because the images, views and objective stay the same.
_FREE_KEYS = {
    "optim": {"accumulation_steps"},
    "data": {"train", "val", "backend", "num_threads", "prefetch", "max_bad_files", "max_pixels"},
    "run": {
        "output_dir", "device", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "resume", "max_steps",
    },
    "eval": set(Recipe.model_fields["eval"].default.__class__.model_fields),
}  # fmt: skip


def check_run_dir(recipe: Recipe) -> None:
    """Refuses a directory that is not this run's, and changes nothing.

    Raises:
        RecipeError: If the directory holds other files, another run, or a run that was not to be resumed.
    """
    folder = Path(recipe.run.output_dir)
    key = f"run.output_dir: {folder}"
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{key} is a file; name a directory")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / RECIPE).is_file():
        raise RecipeError(f"{key} has files in it that are no run's; name a directory that does not exist yet")
    if recipe.run.resume == "never":
        raise RecipeError(f"{key} holds a run already; name another directory, or set run.resume to latest")
    changed = _changed_keys(load_recipe(folder / RECIPE), recipe)
    if changed:
        raise RecipeError(
            f"{key} holds a run of another recipe, in which {'; '.join(changed)};"
            " name another directory, or restore these keys to continue that run"
        )


def claim_run_dir(recipe: Recipe) -> Path:
    """Makes the directory and writes the resolved recipe into it, unless a run is continued."""
    folder = Path(recipe.run.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RECIPE).exists():
        write_atomically(folder / RECIPE, recipe.to_yaml())
    return folder


def write_atomically(path: Path, text: str) -> None:
    """The file is there whole or not at all, also after a power cut."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _changed_keys(old: Recipe, new: Recipe) -> list[str]:
    before, after = old.resolved_dict(), new.resolved_dict()
    return [
        f"{section}.{key} was {before[section][key]!r} and is {after[section][key]!r} now"
        for section in after
        for key in after[section]
        if key not in _FREE_KEYS.get(section, ()) and before[section].get(key) != after[section][key]
    ]
