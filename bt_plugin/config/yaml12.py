"""Read YAML 1.2 from an untrusted source: with limits on its size, and with errors of one line."""

from __future__ import annotations

import re
from typing import Any

import yaml

# Far more than a recipe needs, which has some 70 keys on three levels.
MOST_BYTES = 2**20
_MOST_DEPTH = 16
_MOST_NODES = 10_000


class YamlError(ValueError):
    """A text that is not valid YAML, or is too large. The message is one line with line and column."""


def parse_yaml(text: str) -> Any:
    """Return the value of one YAML document, or None if it is empty.

    Args:
        text: Text of the document.

    Raises:
        YamlError: If the text is not valid YAML 1.2 or repeats a key. Also if it is nested deeper than 16 levels or
            has more than 10,000 values, with its aliases expanded.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _expanded_size(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise YamlError(f"{error.problem or error.context}{where}") from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    except ValueError as error:  # Python refuses integers of more than 4300 digits
        raise YamlError(str(error).partition(";")[0]) from error


class _Loader(yaml.SafeLoader):
    """A loader of YAML 1.2. PyYAML reads YAML 1.1: `no` is false, 1e-6 is a string, and a repeated key is no error."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML then drops the resolvers of the parent

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > _MOST_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nesting is deeper than {_MOST_DEPTH} levels", mark)
        if self._nodes > _MOST_NODES:
            raise yaml.composer.ComposerError(None, None, f"there are more than {_MOST_NODES} values", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice; remove one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values in a node with its aliases expanded.

    A size of 0 marks a node that is being counted, so that a cycle is found.
    """
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise yaml.composer.ComposerError(
                None, None, "an alias refers to a value that contains it", node.start_mark
            )
        return sizes[id(node)]
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_expanded_size(key, sizes) + _expanded_size(value, sizes) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_expanded_size(item, sizes) for item in node.value)
    if size > _MOST_NODES:
        raise yaml.composer.ComposerError(
            None, None, f"its aliases expand to more than {_MOST_NODES} values", node.start_mark
        )
    sizes[id(node)] = size
    return size
