"""Check the English of the README, the docs, docstrings, comments and messages: python docs/check_words.py.

It finds what a machine can see: long sentences, phrases that must be decoded, docstrings that begin with a preposition,
and British spelling. It prints FILE:LINE: RULE: TEXT for each find, and exits with 1 if there is one.
With --count it prints a table of counts by file instead.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_WORDS = 35
# History is not rewritten, and this file names the phrases.
LEFT_OUT = {"benchmarks/LOG.md", "docs/check_words.py"}

# Each phrase, and what to write instead.
PHRASES = {
    r"by turns": "alternating",
    r"the same line": "the same command",
    r"go(?:es)? on\b(?! (?:rank|top))": "resume, continue",
    r"who makes": "the backend that computes",
    r"is told|are told": "logs, prints, reports",
    r"\blies?\b": "is stored, is",
    r"in its place|in the place of|in place of": "instead of",
    r"while it goes": "during the run",
    r"\bnobody\b": "no user, no code",
    r"\bbeside\b": "compared with, next to",
    r"\bpictures? of (?:a|the) (?:data|folder|class)|\byour (?:own )?pictures\b": "images",
    r"python -m bt_plugin": "bt-plugin",
}
# British spelling, by its stem; the project writes American, as its code and its field do.
BRITISH = {
    r"colou?r(?<=colour)\w*": "color",
    r"grey\w*": "gray",
    r"\bcentre\w*|\bcentring": "center",
    r"behaviour\w*": "behavior",
    r"neighbour\w*": "neighbor",
    r"favour\w*": "favor",
    r"(?<!aria-)labelled|labelling": "labeled",
    r"cancelled|cancelling": "canceled",
    r"\w*(?:normal|standard|initial|optim|serial|synchron|random|quant|recogn|summar|character|regular|general|organ)is"
    r"(?:e|es|ed|er|ers|ing|ation|ations)\b": "-ize",
    r"analyse[ds]?\b": "analyze",
    r"licence": "license",
    r"whilst": "while",
    r"artefact\w*": "artifact",
}
# A line that begins a paragraph of its own.
_BEGINNING = re.compile(r"\s*(?:[-*] |\d+\. |#|>|\|| {4}\w+: |(?:Args|Returns|Raises|Shape|Source|Examples?):)")
PREPOSITIONS = ("Of", "In", "For", "From", "By", "With", "To", "At", "On", "As", "That", "Whose", "Where")


class Find(NamedTuple):
    """A place to mend."""

    file: str
    line: int
    rule: str
    text: str


def main() -> int:
    """Print what is found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", action="store_true", help="print counts by file instead of each find")
    parser.add_argument("files", nargs="*", help="files to check (default: all)")
    arguments = parser.parse_args()
    finds = [find for name in arguments.files or tracked() for find in check(name)]
    if arguments.count:
        print_counts(finds)
    else:
        for find in finds:
            print(f"{find.file}:{find.line}: {find.rule}: {find.text}")
    return 1 if finds else 0


def tracked() -> list[str]:
    patterns = ["*.md", "*.py", "*.yaml", "*.j2", ".github/*.yml"]
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if name not in LEFT_OUT and not name.startswith("tests/fuzz/")]


def print_counts(finds: list[Find]) -> None:
    rules = ("sentence", "phrase", "docstring", "spelling")
    counts = Counter((find.file, find.rule) for find in finds)
    print(f"| file | {' | '.join(rules)} |\n|---|{'---|' * len(rules)}")
    for file in sorted({find.file for find in finds}):
        print(f"| {file} | {' | '.join(str(counts[file, rule]) for rule in rules)} |")
    print(f"| all | {' | '.join(str(sum(find.rule == rule for find in finds)) for rule in rules)} |")


def check(name: str) -> Iterator[Find]:
    """Find what breaks a rule in a file."""
    text = (REPOSITORY / name).read_text()
    if name.endswith(".py"):
        yield from check_python(name, text)
    elif name.endswith(".md"):
        for line, paragraph in paragraphs(text):
            yield from check_prose(name, line, paragraph, with_sentences=True)
    else:
        for line, words in enumerate(text.splitlines(), start=1):
            yield from check_prose(name, line, without_code(words), with_sentences=False)


def check_python(name: str, text: str) -> Iterator[Find]:
    """Find what breaks a rule in docstrings; and, outside tests, in comments and messages."""
    of_tests = name.startswith("tests/")
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (docstring := ast.get_docstring(node)):
            first = node.body[0]
            docstrings.add(id(first.value))  # type: ignore[attr-defined]
            if not of_tests:
                yield from check_docstring(name, first.lineno, docstring)
            for number, paragraph in paragraphs(docstring):
                yield from check_prose(name, first.lineno + number - 1, paragraph, with_sentences=not of_tests)
    if of_tests:
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from check_prose(name, token.start[0], without_code(token.string), with_sentences=False)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from check_prose(name, node.lineno, without_code(node.value), with_sentences=False)


def check_docstring(name: str, line: int, docstring: str) -> Iterator[Find]:
    first = docstring.split("\n")[0]
    if first.split(" ")[0] in PREPOSITIONS:
        yield Find(name, line, "docstring", first)
    for number, entry in enumerate(docstring.split("\n")):
        match = re.match(r" {4}\w+: (\w+) ", entry)
        if match and match[1] in PREPOSITIONS[:9]:
            yield Find(name, line + number, "docstring", entry.strip())


def check_prose(name: str, line: int, text: str, with_sentences: bool) -> Iterator[Find]:
    for rules, rule in ((PHRASES, "phrase"), (BRITISH, "spelling")):
        for pattern, better in rules.items():
            for match in re.finditer(pattern, text, flags=re.IGNORECASE):
                yield Find(name, line, rule, f"{match[0]!r}; write: {better}")
    if with_sentences:
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`*\[(\d])", text):
            words = sentence.split()
            if len(words) > MOST_WORDS:
                yield Find(name, line, "sentence", f"{len(words)} words: {' '.join(words[:12])} ...")


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield each paragraph, list item and table cell of Markdown, without code, with the number of its first line."""
    begun, gathered = 1, []
    in_code = False
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
            line = ""
        is_new = _BEGINNING.match(line) is not None
        if gathered and (is_new or not line.strip() or in_code):
            yield begun, without_code(" ".join(gathered))
            gathered = []
        if in_code or not line.strip() or line.lstrip().startswith(">>>"):
            continue
        if line.lstrip().startswith("|"):
            for cell in line.strip().strip("|").split(" | "):
                yield number, without_code(cell)
            continue
        begun = begun if gathered else number
        gathered.append(line.strip())


def without_code(text: str) -> str:
    """Leave out code, addresses and quotations of what others wrote."""
    text = re.sub(r"``.*?``|`[^`]*`", "CODE", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"https?://\S+", "URL", text)


if __name__ == "__main__":
    sys.exit(main())
