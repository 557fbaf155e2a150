"""Write docs/recipe_keys.md from the types of the recipes: python docs/recipe_keys.py.

The introductions are here. The texts about sections and keys are the docstrings of the classes in bt_plugin/config
and of dali_pipelines/views/params.py.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter

from bt_plugin.config.evaluation_recipe import EvaluationRecipe
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.section import Section
from bt_plugin.runs.directory import _FREE_KEYS
from dali_pipelines.views.params import PRESETS, Preset, ViewParams

PAGE = Path(__file__).with_suffix(".md")
_HEAD = """# Every key of a recipe

A recipe is a YAML 1.2 file that describes a run. Two keys are required:

```yaml
data: {train: my/train}
run: {output_dir: runs/first}
```

Every other key has a default: the value of the official code, where it has one. To override a key on the command line,
write `section.key=value`. The command line wins over the file:

```bash
bt-plugin pretrain my.yaml optim.epochs=200 views.both.size_px=96
```

`bt-plugin check RECIPE` prints all keys of a recipe with their resolved values.

The column *may change* tells whether a run may [resume](resume.md) with another value of the key. If it says no,
resuming with another value is an error that names the key. Restore the value, or start a new run with another
`run.output_dir`. `data.train` may change to another path of the same images, but not to other images or another
order of several sources.

## Recipes of pretraining
"""
_VIEWS = """
The keys below change the preset. Write them in `views.both` for both views, in `views.a` for the first view, or in
`views.b` for the second view. An example is `views.both.size_px=96`. A change in `views.a` or `views.b` wins over one
in `views.both`. None of these keys may change when a run resumes.

The augmentations run in the order of this table.
"""
_EVALUATION = """
## Recipes of evaluation

These are the keys of the recipes in recipes/evaluate, for the commands `bt-plugin knn`, `linear` and `finetune`
([evaluation](evaluation.md)). `bt-plugin embed` uses those that apply to it.

If the evaluated model is a run, `data` and `view` default to the values of that run.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [_HEAD]
    for name, field in Recipe.model_fields.items():
        parts.append(f"\n### {name}\n\n{_introduction(_class(field))}\n")
        parts.append(_table(name, _class(field), _FREE_KEYS.get(name, set())))
        if name == "views":
            parts.append(_views())
    parts.append(_EVALUATION)
    for name, field in EvaluationRecipe.model_fields.items():
        parts.append(f"\n### {name} of an evaluation\n\n{_introduction(_class(field))}\n")
        parts.append(_table(name, _class(field)))
    return "".join(parts)


def _class(field: Any) -> type[Section]:
    annotation: Any = field.annotation
    assert isinstance(annotation, type), "a recipe consists of sections"
    assert issubclass(annotation, Section), "a recipe consists of sections"
    return annotation


def _introduction(section: type[Section]) -> str:
    """Return the first paragraph of a section's docstring."""
    assert section.__doc__, f"{section.__name__} has a docstring"
    return " ".join(section.__doc__.split("\n\n")[0].split())


def _table(section: str, model: type[Section], free: set[str] | None = None) -> str:
    """Return a table with a row for each key of a section.

    Args:
        section: Name of the section.
        model: Class of the section.
        free: Keys that may change when a run resumes. None: the table has no such column.
    """
    schema = model.model_json_schema()
    heads = ["key", "type", "default", *(["may change"] if free is not None else []), "meaning"]
    rows = []
    for key, field in model.model_fields.items():
        if section == "views" and key != "preset":
            continue  # both, a and b have the same keys, which _views describes
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        may = ["yes" if key in free else "no"] if free is not None else []
        rows.append(
            [f"`{section}.{key}`", _in_words(schema["properties"][key]), default, *may, _description(model, key)]
        )
    return _markdown(heads, rows)


def _views() -> str:
    """Return the table of the keys of a view, the fields of ViewParams, with their values in the presets."""
    said = _arguments(ViewParams)
    first, second = PRESETS["barlow_twins"].views
    rows = []
    for name, hint in get_type_hints(ViewParams).items():
        if name == "channels":
            continue  # model.in_chans gives it
        a, b = getattr(first, name), getattr(second, name)
        default = _value(a) if a == b else f"a {_value(a)}, b {_value(b)}"
        rows.append([f"`{name}`", _view_type(name, TypeAdapter(hint).json_schema()), default, said[name]])
    table = _markdown(["key", "type", "in `barlow_twins`", "meaning"], rows)
    changes = [f"- `{name}`: {_changes(preset, first)}\n" for name, preset in PRESETS.items() if _is_a_change(name)]
    return f"{_VIEWS}{table}\nThese presets differ from `barlow_twins` in both views:\n\n{''.join(changes)}"


def _is_a_change(name: str) -> bool:
    return len(PRESETS[name].views) == 2 and name != "barlow_twins"


def _changes(preset: Preset, first: ViewParams) -> str:
    """Return the values of a preset's views that are not those of the first view of `barlow_twins`."""
    values = [(field.name, getattr(preset.views[0], field.name), getattr(first, field.name)) for field in fields(first)]
    return ", ".join(f"`{name}` {_value(value)}" for name, value, other in values if value != other)


def _view_type(name: str, schema: dict[str, Any]) -> str:
    """Return a type and its range. The range is read from the error of ViewParams for a value outside of it."""
    if "enum" in schema:
        return _in_words(schema)
    wrong: Any = -1 if schema["type"] != "array" else (-1, -1) if "prefixItems" in schema else ()
    try:
        ViewParams(**{name: wrong})
    except ValueError as error:
        rule = str(error).partition("it must be ")[2]
        return rule if wrong == () else f"{_in_words(schema)}, {rule}"
    raise AssertionError(f"{name}: ViewParams accepts every value")


def _in_words(schema: dict[str, Any]) -> str:
    """Describe a type by its JSON schema."""
    if one_of := schema.get("anyOf") or schema.get("oneOf"):
        kinds = [_in_words(each) for each in one_of]
        return (", or " if any("," in kind for kind in kinds) else " or ").join(kinds)
    if "enum" in schema:
        *most, last = (f"`{each}`" for each in schema["enum"])
        return f"{', '.join(most)} or {last}"
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} numbers"
        least = "non-empty list" if schema.get("minItems") else "list"
        return f"{least} of: {_in_words(schema['items'])}"
    names = {
        "integer": "integer",
        "number": "number",
        "string": "string",
        "boolean": "`true` or `false`",
        "object": "mapping",
    }
    return names.get(schema["type"], f"`{schema['type']}`") + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    """Describe the range of a number, or the least length of a string."""
    if schema.get("minLength"):
        return ", not empty"
    if schema["type"] == "integer" and "exclusiveMaximum" in schema:
        schema = {**schema, "maximum": schema["exclusiveMaximum"] - 1}
    if "minimum" in schema and "maximum" in schema:
        return f", {_number(schema['minimum'])} to {_number(schema['maximum'])}"
    words = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    return "".join(f", {word} {_number(schema[bound])}" for bound, word in words if bound in schema)


def _number(value: float) -> str:
    """Write a bound: long powers of ten as 1e9, other integers in full."""
    short = re.sub(r"e([+-])0*", lambda sign: f"e{sign[1].strip('+')}", f"{value:g}")
    return short if isinstance(value, float) or (short.startswith("1e") and float(short) == value) else str(value)


def _description(model: type[Section], key: str) -> str:
    """Return the docstring of a field, or of the field that it overrides."""
    bases = [base for base in model.__mro__ if issubclass(base, Section) and key in base.model_fields]
    text = next(text for base in bases if (text := base.model_fields[key].description))
    return " ".join(text.split())


def _arguments(described: type) -> dict[str, str]:
    """Return the description of each argument in a Google docstring by its name."""
    block = re.search(r"Args:\n(.*?)\n\n", described.__doc__ or "", flags=re.DOTALL)
    assert block, "it has a docstring with arguments"
    found = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", block[1] + "\n", flags=re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _value(value: Any) -> str:
    """Return a value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n" + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
