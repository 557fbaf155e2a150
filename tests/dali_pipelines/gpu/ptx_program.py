"""Parse the PTX of a compiled kernel."""

from __future__ import annotations

import re
from typing import NamedTuple


class Instruction(NamedTuple):
    """An instruction: `@!%p1 add.s32 %r1, %r2, 3;` has name add, kinds (s32,), and three operands."""

    name: str
    kinds: tuple[str, ...]
    operands: list[str]
    predicate: str | None
    negated: bool
    text: str


class Program:
    """A kernel's PTX, parsed."""

    def __init__(self, ptx: str) -> None:
        found = re.search(r"\.reqntid (\d+)", ptx)
        assert found, "the number of threads"
        self.threads = int(found[1])
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        pending = ""
        for text in ptx[ptx.index("\n{") + 2 : ptx.index("\n}")].splitlines():
            line = text.split("//")[0].strip()
            if label := re.fullmatch(r"(\$\w+):", line):
                self.labels[label[1]] = len(self.instructions)
            elif line not in ("", "{", "}") and not line.startswith((".loc", ".reg")):
                pending += " " + line
                if line.endswith(";"):
                    self.instructions.append(_parsed(pending.strip(" ;")))
                    pending = ""


def _parsed(line: str) -> Instruction:
    found = re.fullmatch(r"(?:@(!?)(%p\d+)\s+)?([\w.:]+)\s*(.*)", line, flags=re.DOTALL)
    assert found, line
    name, *kinds = found[3].split(".")
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", found[4])
    return Instruction(name, tuple(kinds), operands, found[2], found[1] == "!", line)
