"""Writes docs/recipe_keys.md from the types of bt_plugin/config/recipe.py: python docs/recipe_keys.py."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter

from bt_plugin.config.evaluation_recipe import EvaluationRecipe
from bt_plugin.config.recipe import Recipe, Section
from bt_plugin.runs.directory import _FREE_KEYS
from dali_pipelines.views.params import PRESETS, ViewParams

PAGE = Path(__file__).with_suffix(".md")
_HEAD = """# Every key of a recipe

This page is written by `python docs/recipe_keys.py` from bt_plugin/config/recipe.py and
bt_plugin/config/evaluation_recipe.py. A test compares the page with them (tests/test_docs.py). `bt-plugin check RECIPE`
prints all keys of a recipe with their resolved values.

A key is given in the recipe's file, or on the command line as `section.key=value`; the command line counts. *May
change*: whether two launches of one run may give it different values. Where they may not, the run is another one, and
wants another `run.output_dir`; the message names the key ([runs that last](long_runs.md)). `data.train` may be another
path to the same images; other images are refused.

## Recipes of pretraining
"""
_VIEWS = """
`views.both`, `views.a` and `views.b` each take the keys below, as `views.both.size_px=96`: changes to both views, and
to the first or second alone, which count more. A key that is left out is the preset's. They may not change between two
launches.
"""
_EVALUATION = """
## Recipes of evaluation

For `knn`, `linear` and `finetune`, and for `embed` as far as they apply to it: recipes/evaluate
([evaluation](evaluation.md)). A run brings its own `data` and `view`.
"""


def page() -> str:
    """The page as it should be."""
    parts = [_HEAD]
    for name, field in Recipe.model_fields.items():
        parts.append(f"\n### {name}\n")
        parts.append(_table(name, _class(field), _FREE_KEYS.get(name, set())))
        if name == "views":
            parts.append(_views())
    parts.append(_EVALUATION)
    for name, field in EvaluationRecipe.model_fields.items():
        parts.append(f"\n### {name} of an evaluation\n")
        parts.append(_table(name, _class(field)))
    return "".join(parts)


def _class(field: Any) -> type[Section]:
    annotation: Any = field.annotation
    assert isinstance(annotation, type), "a recipe consists of sections"
    assert issubclass(annotation, Section), "a recipe consists of sections"
    return annotation


def _table(section: str, model: type[Section], free: set[str] | None = None) -> str:
    """A row for each key of a section; without `free` there is no column for it."""
    schema = model.model_json_schema()
    heads = ["key", "type", "default", *(["may change"] if free is not None else []), "what it is"]
    rows = []
    for key, field in model.model_fields.items():
        if section == "views" and key != "preset":
            continue  # described once for all three
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        may = ["yes" if key in free else "no"] if free is not None else []
        rows.append(
            [f"`{section}.{key}`", _in_words(schema["properties"][key]), default, *may, _description(model, key)]
        )
    return _markdown(heads, rows)


def _views() -> str:
    """The keys of a view, which are ViewParams's, and its values in the presets."""
    said = _arguments(ViewParams)
    first, second = PRESETS["barlow_twins"].views
    rows = []
    for name, hint in get_type_hints(ViewParams).items():
        if name == "channels":
            continue  # is model.in_chans
        a, b = getattr(first, name), getattr(second, name)
        default = _value(a) if a == b else f"a {_value(a)}, b {_value(b)}"
        rows.append([f"`{name}`", _view_type(name, TypeAdapter(hint).json_schema()), default, said[name]])
    small = PRESETS["barlow_twins_32"].views[0]
    others = [
        f"`{field.name}` {_value(getattr(small, field.name))}"
        for field in fields(ViewParams)
        if getattr(small, field.name) != getattr(first, field.name)
    ]
    table = _markdown(["key", "type", "in `barlow_twins`", "what it is"], rows)
    return f"{_VIEWS}{table}\n`barlow_twins_32` has {' and '.join(others)}, in both views, and is else the same.\n"


def _view_type(name: str, schema: dict[str, Any]) -> str:
    """A type and its range, which ViewParams tells where it is given what is out of it."""
    if "enum" in schema:
        return _in_words(schema)
    wrong: Any = -1 if schema["type"] != "array" else (-1, -1) if "prefixItems" in schema else ()
    try:
        ViewParams(**{name: wrong})
    except ValueError as error:
        rule = str(error).partition("it must be ")[2]
        return rule if wrong == () else f"{_in_words(schema)}, {rule}"
    raise AssertionError(f"{name}: every value is allowed")


def _in_words(schema: dict[str, Any]) -> str:
    """A type by its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_in_words(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} numbers"
        least = ", not empty," if schema.get("minItems") else ""
        return f"list{least} of: {_in_words(schema['items'])}"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    return names.get(schema["type"], f"`{schema['type']}`") + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    """The range of a number, and the least length of a text."""
    if schema.get("minLength"):
        return ", not empty"
    words = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    return "".join(f", {word} {_number(schema[bound])}" for bound, word in words if bound in schema)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _description(model: type[Section], key: str) -> str:
    """The docstring of an attribute, or of the one that it overrides."""
    bases = [base for base in model.__mro__ if issubclass(base, Section) and key in base.model_fields]
    text = next(text for base in bases if (text := base.model_fields[key].description))
    return " ".join(text.split())


def _arguments(described: type) -> dict[str, str]:
    """Name and description of each argument in a Google docstring."""
    block = re.search(r"Args:\n(.*?)\n\n", described.__doc__ or "", flags=re.DOTALL)
    assert block, "it has a docstring with arguments"
    found = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", block[1] + "\n", flags=re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _value(value: Any) -> str:
    """As YAML, in a line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n" + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
