"""From a YAML file and `section.key=value` overrides to a recipe, or to an error that says what to correct."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bt_plugin.errors import RecipeError
from bt_plugin.recipe import Recipe
from bt_plugin.shipped import located

S = TypeVar("S", bound=BaseModel)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe, a file or one of the package by its name, and applies `section.key=value` overrides to it.

    Raises:
        RecipeError: For a file that cannot be read, and for every key that is wrong.
    """
    return load_as(Recipe, path, overrides)


def load_as(
    kind: type[S], path: str | Path | None, overrides: list[str] | None = None, beneath: dict[str, Any] | None = None
) -> S:
    """Reads a recipe of some kind.

    Args:
        kind: Of recipe.
        path: Of the YAML file, or the name of one that comes with the package; without one there is what is beneath.
        overrides: `section.key=value`, which come last.
        beneath: Sections and keys that count where the file does not give them.

    Raises:
        RecipeError: For a file that cannot be read, and for every key that is wrong.
    """
    content = _merged(beneath or {}, _read(path, kind) if path is not None else {})
    for override in overrides or []:
        _apply(content, override)
    try:
        # As JSON, because pydantic's strict mode then takes lists for tuples, and nothing else for another.
        return kind.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = "\n".join(f"  {_explained(detail, kind)}" for detail in details)
        raise RecipeError(f"{path or 'recipe'}: {len(details)} thing(s) to correct\n{lines}") from error


def _read(path: str | Path, kind: type[BaseModel]) -> dict[str, Any]:
    try:
        content = _parse(located(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}; give the path of a recipe") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: must hold the sections {', '.join(kind.model_fields)}")
    return content


def _merged(beneath: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {**beneath, **above}
    for key in beneath.keys() & above.keys():
        if isinstance(beneath[key], dict) and isinstance(above[key], dict):
            both[key] = _merged(beneath[key], above[key])
    return both


def _apply(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    *sections, key = path.split(".")
    if not equals or not sections or not key:
        raise RecipeError(f"{override!r}: is not section.key=value, such as optim.epochs=100")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(f"{override!r}: {section} is not a section")
    try:
        content[key] = _parse(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{override!r}: the value is not YAML: {error}") from error


def _explained(detail: ErrorDetails, kind: type[BaseModel]) -> str:
    """One error of pydantic's, with the remedy."""
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        keys = _keys_beside(detail["loc"], kind)
        near = difflib.get_close_matches(str(detail["loc"][-1]), keys, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(keys)}"
        return f"{where}: {detail['input']!r} is given to an unknown key; {remedy}"
    if detail["type"] == "missing":
        return f"{where}: is missing; every recipe must give it"
    message = detail["msg"].removeprefix("Value error, ")
    if not where:
        return message  # names its key itself
    if isinstance(detail["input"], dict):
        return f"{where}: {message}"
    return f"{where}: {detail['input']!r} is not allowed; {message[0].lower()}{message[1:]}"


def _keys_beside(loc: tuple[int | str, ...], kind: type[BaseModel]) -> list[str]:
    model = kind
    for part in loc[:-1]:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type), "only sections have keys"
        model = annotation
    return list(model.model_fields)


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML speaks YAML 1.1, where `no` is false, 1e-6 is a string and a repeated key is silent."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to forget the parent's

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {repeated.pop()!r} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Yaml12Loader)
