"""Read YAML 1.2 from people one does not know: within limits, and with errors of one line."""

from __future__ import annotations

import re
from typing import Any

import yaml

# A recipe has some 70 keys in three levels.
MOST_BYTES = 2**20
_MOST_DEPTH = 16
_MOST_NODES = 10_000


class YamlError(ValueError):
    """Text that is not YAML, or more of it than is read; the message is one line with the place."""


def parse_yaml(text: str) -> Any:
    """Read one document.

    Args:
        text: The document.

    Raises:
        YamlError: If it is not YAML 1.2, a key is there twice, or it is nested too deep or too large, also by aliases.
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
    except ValueError as error:  # a number of more digits than Python reads
        raise YamlError(str(error).partition(";")[0]) from error


class _Loader(yaml.SafeLoader):
    """PyYAML speaks YAML 1.1, where `no` is false, 1e-6 is a string and a repeated key is silent."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to forget the parent's

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > _MOST_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"it is nested deeper than {_MOST_DEPTH} levels", mark)
        if self._nodes > _MOST_NODES:
            raise yaml.composer.ComposerError(None, None, f"it has more than {_MOST_NODES} values", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
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
    """Values of a node once its aliases are written out; 0 marks those that are being counted."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise yaml.composer.ComposerError(None, None, "an alias refers to what it is in", node.start_mark)
        return sizes[id(node)]
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_expanded_size(key, sizes) + _expanded_size(value, sizes) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_expanded_size(item, sizes) for item in node.value)
    if size > _MOST_NODES:
        raise yaml.composer.ComposerError(
            None, None, f"its aliases make more than {_MOST_NODES} values", node.start_mark
        )
    sizes[id(node)] = size
    return size
