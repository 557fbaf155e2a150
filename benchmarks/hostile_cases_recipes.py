"""Try recipes with odd or hostile text (B5, D9)."""

from __future__ import annotations

from typing import Any

from hostile_cases import Place, Try, tries
from hostile_cases_verdicts import accepted, refused

_NOWHERE = ("--num-images", "1000")


def check(place: Place, *changes: str, **options: Any) -> Any:
    return place.bt("check", place.recipe, *changes, *_NOWHERE, **{"limit": 20, **options})


def _bomb(depth: int, width: int, mapping: bool) -> str:
    lines = ["a0: &a0 " + ("{k: 1}" if mapping else "[x]")]
    for level in range(1, depth):
        parts = [f"*a{level - 1}"] * width
        inner = "{" + ", ".join(f"k{i}: {p}" for i, p in enumerate(parts)) + "}" if mapping else f"[{', '.join(parts)}]"
        lines.append(f"a{level}: &a{level} {inner}")
    return "\n".join(lines) + "\n"


_BAD_TEXTS: dict[str, bytes] = {
    "a bomb of lists": _bomb(12, 10, False).encode(),
    "a bomb of mappings": _bomb(12, 10, True).encode(),
    "a bomb of merges": b"a: &a {x: 1}\n"
    + b"".join(
        b"m%d: &m%d {<<: [%s]}\n" % (i, i, b", ".join([b"*m%d" % (i - 1) if i else b"*a"] * 9)) for i in range(9)
    ),
    "10^5 brackets": b"data: " + b"[" * 100_000,
    "10^5 pairs of brackets": b"data: " + b"[" * 100_000 + b"]" * 100_000,
    "10^4 braces": b"data: " + b"{a: " * 10_000 + b"}" * 10_000,
    "10^5 dashes": b"data:\n " + b"- " * 100_000 + b"x",
    "deep indentation": b"".join(b" " * i + b"a:\n" for i in range(3000)),
    "many question marks": b"? " * 20_000 + b"a",
    "many tags": b"data: " + b"!!seq " * 20_000 + b"[]",
    "a key of 10^6 letters": b"data: {" + b"x" * 10**6 + b": 1}",
    "10^5 unknown keys": b"data: {" + b", ".join(b"k%d: 1" % i for i in range(100_000)) + b"}",
    "10^5 equal keys": b"data: {" + b", ".join(b"k: 1" for i in range(100_000)) + b"}",
    "a value of 10^5 letters": b"run: {device: " + b"y" * 100_000 + b"}",
    "a number of 10^5 digits": b"run: {seed: " + b"9" * 100_000 + b"}",
    "a list that holds itself": b"optim: &a [*a]",
    "a mapping that holds itself": b"loss: &l\n  form: *l\n",
    "a mapping in its own list": b"loss: &l {form: [1, {x: *l}]}",
    "a key that is itself": b"? &a [*a]\n: 1\n",
    "Python objects": b"data: !!python/object/apply:os.system [touch ran]",
    "new Python objects": b"data: !!python/object/new:subprocess.Popen [[touch, ran]]",
    "a Python name": b"data: {train: !!python/name:os.system }",
    "an unknown tag": b"data: !foo {train: x}",
    "a set": b"data: !!set {a, b}",
    "binary": b"run: {output_dir: !!binary aGVsbG8=}",
    "a date": b"run: {output_dir: !!timestamp 2024-01-01}",
    "a float as a key": b"data: {1.5: x}",
    "null as a key": b"data: {null: x}\n~: 3",
    "a list as a key": b"data: {[a, b]: x}",
    "a mapping as a key": b"? {a: 1}\n: 2\n",
    "a key twice": b"data: {train: a}\ndata: {train: b}",
    "two documents": b"data: {train: a}\n---\ndata: {train: b}",
    "an end within": b"data: {train: a}\n...\nrun: 3",
    "tabs": b"data:\n\ttrain: a",
    "an unknown alias": b"data: *x",
    "UTF-16": "data: {train: a}".encode("utf-16"),
    "Latin-1": b"data: {train: caf\xe9}",
    "NUL": b"data: {train: a\0b}",
    "escapes": b'data: {train: "\\e]0;x\\a", nope: "\\e[2J"}',
    "an escape as a key": b'"\\e[2J": 1',
    "an eight-bit escape": "data: {'\x9b2J': 1}".encode(),
    "an image": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 10,
    "nothing": b"",
    "comments alone": b"# nothing\n",
    "a list": b"- data\n- run\n",
    "a word": b"hello",
    "a directive": b"%YAML 9.9\n---\ndata: 1",
    "an unclosed quote": b"data: {train: 'a}\nrun: {output_dir: b}",
    "JSON that is cut": b'{"data": {"train": "x"',
}


def _bad_text(place: Place, content: bytes) -> None:
    """Give the recipe to a command. It must be refused by its name, quickly, with little memory and few lines."""
    (place.folder / "odd.yaml").write_bytes(content)
    refused(place.bt("check", "odd.yaml", limit=20), "odd.yaml")


_GOOD_TEXTS: dict[str, str] = {
    "an anchor and its alias": "views: {{a: &v {{size_px: 32}}, b: *v}}\n",
    "a byte-order mark": "\ufeff# a recipe\n",
    "a comment of other scripts": "# レシピ\n",
    "an end of document": "# x\n",
}


def _good_text(place: Place, head: str) -> None:
    own = place.recipe.read_text().replace(
        "views: {both: {size_px: 32}}\n", "" if "views" in head else "views: {both: {size_px: 32}}\n"
    )
    (place.folder / "odd.yaml").write_text(head.replace("{{", "{").replace("}}", "}") + own, encoding="utf-8")
    accepted(place.bt("check", "odd.yaml", *_NOWHERE))


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    limits = ("10^", "bomb", "many", "deep", "escape", "Python")
    found = []
    for name, content in _BAD_TEXTS.items():
        row = "B5" if any(word in name for word in limits) else "D9"
        found += tries(row, {f"a recipe: {name}": content}, _bad_text)
    return found + tries(
        "D9", {f"a recipe: {name}, which is right": text for name, text in _GOOD_TEXTS.items()}, _good_text
    )
