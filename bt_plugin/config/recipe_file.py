"""Load a recipe from a YAML file and `section.key=value` overrides, or raise an error that says what to correct."""

from __future__ import annotations

import codecs
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bt_plugin.config.bundled_recipes import find_recipe
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.yaml12 import MOST_BYTES, YamlError, parse_yaml
from bt_plugin.errors import RecipeError
from dali_pipelines.regular_files import read_regular
from dali_pipelines.storage.urls import scrubbed

# An override such as views.both.size_px=64 names two sections.
_MOST_SECTIONS = 8
S = TypeVar("S", bound=BaseModel)


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any] | None = None
) -> Recipe:
    """Load a recipe of pretraining and apply overrides to it.

    Args:
        recipe: Path of a YAML file, name of a bundled recipe, such as pretrain/quickstart, sections with their keys, or
            a recipe.
        overrides: Changes, each as ``section.key=value``, or a mapping of ``section.key`` to a value. Later ones win.

    Raises:
        RecipeError: If the file cannot be read or a key is wrong. The message lists every wrong key.

    Examples:
        >>> load_recipe("quickstart", ["optim.epochs=5"]).optim.epochs
        5
        >>> load_recipe("quickstart", {"optim.epochs": 5, "run.output_dir": "runs/five"}).optim.epochs
        5
    """
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(mode="json", exclude_unset=True)
    if isinstance(recipe, Mapping):
        return load_as(Recipe, None, overrides=overrides, beneath=recipe)
    return load_as(Recipe, recipe, overrides=overrides)


def load_as(
    kind: type[S],
    path: str | Path | None,
    *,
    overrides: Sequence[str] | Mapping[str, Any] | None = None,
    beneath: Mapping[str, Any] | None = None,
) -> S:
    """Load a recipe of pretraining or of evaluation.

    Args:
        kind: Class of the recipe: Recipe or EvaluationRecipe.
        path: Path of the YAML file, or name of a bundled recipe. None: only ``beneath`` and the overrides count.
        overrides: Changes, each as ``section.key=value``, or a mapping of ``section.key`` to a value. They win over the
            file.
        beneath: Sections and keys that apply if the file does not give them.

    Raises:
        RecipeError: If the file cannot be read or a key is wrong. The message lists every wrong key.
    """
    file, changes = _read(path, kind) if path is not None else {}, changes_of(overrides)
    content = _merged(beneath or {}, file)
    of_file = file.get("data")
    _forget_range(content, of_file if isinstance(of_file, Mapping) else {})
    for key, value in changes.items():
        _apply(content, key, value)
    _forget_range(content, {key.removeprefix("data."): value for key, value in changes.items()})
    text = json.dumps(content, default=str, ensure_ascii=False)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RecipeError(
            f"{path or 'recipe'}: a value contains bytes that are not UTF-8; rename that file or folder, or use a"
            " symbolic link to it whose name is UTF-8"
        )
    try:
        # JSON, because pydantic's strict mode then accepts a list for a tuple, and no other conversion.
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = "\n".join(f"  {scrubbed(_explained(detail, kind))}" for detail in details)
        raise RecipeError(f"{path or 'recipe'}: {len(details)} error(s) to correct\n{lines}") from error


def _read(path: str | Path, kind: type[BaseModel]) -> dict[str, Any]:
    try:
        content = parse_yaml(read_regular(find_recipe(path), MOST_BYTES).removeprefix(codecs.BOM_UTF8).decode())
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}; use the path of a recipe") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 at byte {error.start}; use the path of a recipe") from error
    except YamlError as error:
        raise RecipeError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: must be a mapping with the sections {', '.join(kind.model_fields)}")
    return content


def _merged(beneath: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both contents, whose sections are new dictionaries. The second one wins."""
    both = {**beneath, **above}
    for key, value in both.items():
        if isinstance(value, Mapping):
            under = beneath.get(key)
            both[key] = _merged(under if isinstance(under, Mapping) else {}, value)
    return both


def changes_of(overrides: Sequence[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values of overrides by their keys, such as optim.epochs.

    Args:
        overrides: Changes, each as ``section.key=value``, or a mapping of ``section.key`` to a value.

    Raises:
        RecipeError: If a text is not section.key=value.
    """
    if isinstance(overrides, Mapping):
        return dict(overrides)
    changes: dict[str, Any] = {}
    for override in [overrides] if isinstance(overrides, str) else overrides or ():
        key, equals, value = str(override).partition("=")
        if not equals:
            raise RecipeError(_no_override(override))
        try:
            # The last of several values of a key counts, at its place.
            changes.pop(key, None)
            changes[key] = parse_yaml(value)
        except YamlError as error:
            remedy = "; put double quotes around a path with braces" if value[:1] == "[" and "{" in value else ""
            raise RecipeError(f"{_shortened(override)}: the value is not valid YAML: {error}{remedy}") from error
    return changes


def paths_in(text: str) -> str | list[str]:
    """Return the images that an argument of a command names: a path, or the paths of a list such as [A, B].

    Args:
        text: The argument. A path that exists is taken literally.

    Raises:
        RecipeError: If it is a list of something else than paths.
    """
    if text[:1] != "[" or text[-1:] != "]" or os.path.lexists(os.path.expanduser(text)):
        return text
    try:
        paths = parse_yaml(text)
    except YamlError as error:
        raise RecipeError(
            f"{_shortened(text)}: is not a list of paths: {error}; write '[A, B]', with double quotes around a path"
            " with braces"
        ) from error
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise RecipeError(f"{_shortened(text)}: is not a list of paths; write '[A, B]'")
    return paths


def _forget_range(content: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Leave out the range that an earlier run found, if a later layer gives another rule for it."""
    if "value_range" in given and "value_range_used" not in given and isinstance(content.get("data"), dict):
        content["data"].pop("value_range_used", None)


def _apply(content: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = str(path).split(".")
    if not 0 < len(sections) <= _MOST_SECTIONS or not key:
        raise RecipeError(_no_override(f"{path}={value}"))
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(
                f"{_shortened(f'{path}={value}')}: {_shortened(section)} is not a section; write section.key=value"
            )
    content[key] = value


def _no_override(text: object) -> str:
    return f"{_shortened(text)}: is not an override; write section.key=value, such as optim.epochs=100"


def _explained(detail: ErrorDetails, kind: type[BaseModel]) -> str:
    """Return the message for one of pydantic's errors, with the remedy."""
    where = ".".join(str(part)[:80] for part in detail["loc"] if str(part).strip())
    if detail["type"] == "extra_forbidden":
        keys = _keys_beside(detail["loc"], kind)
        near = difflib.get_close_matches(str(detail["loc"][-1]), keys, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(keys)}"
        return f"{where}: unknown key, with the value {_shortened(detail['input'])}; {remedy}"
    if detail["type"] == "missing":
        return f"{where}: is missing; set it in the recipe or as an override"
    message = detail["msg"].removeprefix("Value error, ")
    if not where or message.startswith(f"{where}."):
        return message  # the message names its key
    if isinstance(detail["input"], dict):
        return f"{where}: {message}"
    return f"{where}: {_shortened(detail['input'])} is not allowed; {message[0].lower()}{message[1:]}"


def _keys_beside(loc: tuple[int | str, ...], kind: type[BaseModel]) -> list[str]:
    model = kind
    for part in loc[:-1]:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type), "only sections have keys"
        model = annotation
    return list(model.model_fields)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}... ({len(text)} characters)"
