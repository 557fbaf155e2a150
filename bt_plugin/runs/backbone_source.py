"""Record which function builds a run's backbone, and refuse to resume the run with another source."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from bt_plugin.config.model import Model
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import BackboneError, RecipeError
from bt_plugin.models.backbone_names import is_own
from bt_plugin.models.own_backbone import Factory, Source, factory_name, import_factory, source_of
from bt_plugin.runs.directory import RECIPE


def with_source(recipe: Recipe, backbone: Factory | None = None) -> Recipe:
    """Return the recipe with the name and the hash of the function that builds its backbone. Import it if it is named.

    A recipe with a backbone of a library is returned as it is.

    Args:
        recipe: Recipe that the user gives.
        backbone: Function that the user passes instead of naming it in model.backbone.

    Raises:
        RecipeError: If the run's directory contains a run whose function had another source.
        BackboneError: If the function cannot be imported.
    """
    if backbone is None and not is_own(recipe.model.backbone):
        return recipe
    name = factory_name(backbone) if backbone else recipe.model.backbone
    source = source_of(backbone or import_factory(name))
    _check_unchanged(recipe, name, source)
    content = recipe.model.model_dump() | {"backbone": name, "backbone_sha256": source.sha256}
    try:
        return recipe.model_copy(update={"model": Model.model_validate(content)})
    except ValidationError as error:
        raise BackboneError(f"backbone {name[:80]}... has a name that is too long; use a shorter one") from error


def _check_unchanged(recipe: Recipe, name: str, source: Source) -> None:
    run_dir = Path(recipe.run.output_dir)
    wanted = recipe.model.backbone_sha256
    if wanted not in (None, source.sha256):
        raise RecipeError(
            f"model.backbone_sha256: {wanted} is not the hash of {source.place}, which is {source.sha256}; restore the"
            " source, or start a new run without the key"
        )
    before = load_recipe(run_dir / RECIPE).model if (run_dir / RECIPE).is_file() else None
    if before and before.backbone == name and before.backbone_sha256 not in (None, source.sha256):
        raise RecipeError(
            f"model.backbone: {source.place} has changed since the run in {run_dir} began. Restore it, or choose"
            " another run.output_dir. Keep the network in a file of its own to be free to edit the training script"
        )
