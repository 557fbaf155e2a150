"""The docs as a site: its links, its navigation, and the page that is made of the recipe's types."""

from __future__ import annotations

import doctest
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import bt_plugin
import dali_pipelines
from bt_plugin.version import __version__
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"


def script(name: str) -> ModuleType:
    """A file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


hooks = script("hooks")


@pytest.mark.parametrize(
    ("link", "page", "there"),
    [
        ("../benchmarks/records/2026-11-22_loss.json", "docs/loss.md", "benchmarks/records/2026-11-22_loss.json"),
        ("../README.md#the-loss-alone", "docs/loss.md", "index.md#the-loss-alone"),
        ("../CONTRIBUTING.md", "docs/index.md", "contributing.md"),
        ("loss.md#what-it-costs", "docs/index.md", "loss.md#what-it-costs"),
        ("docs/loss.md", "CONTRIBUTING.md", "loss.md"),
        ("../docs/loss.md", "benchmarks/LOG.md", "loss.md"),
        ("records/2026-11-22_loss.json", "benchmarks/LOG.md", "benchmarks/records/2026-11-22_loss.json"),
        ("#here", "docs/loss.md", "#here"),
        ("https://arxiv.org/abs/2103.03230", "docs/loss.md", "https://arxiv.org/abs/2103.03230"),
    ],
)
def test_links_lead_to_the_same_on_the_site(link: str, page: str, there: str) -> None:
    text, copied, wrong = hooks.rewritten(f"[a]({link})", page)
    assert text == f"[a]({there})"
    assert copied == ({there} if there.startswith("benchmarks/") else set())
    assert wrong == []


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("../benchmarks/records/none.json", "not in the repository"),
        ("../../elsewhere.md", "not in the repository"),
        ("../examples", "is a folder"),
    ],
)
def test_a_link_to_what_is_not_there_is_an_error(link: str, why: str) -> None:
    text, copied, (message,) = hooks.rewritten(f"[a]({link})", "docs/loss.md")
    assert why in message
    assert (text, copied) == (f"[a]({link})", set())


def test_code_has_no_links() -> None:
    for code in ("`f[0](../none.json)`", "```python\nf[0](../none.json)\n```"):
        assert hooks.rewritten(code, "docs/loss.md") == (code, set(), [])


def test_every_link_of_every_page_leads_somewhere() -> None:
    pages = [*(f"docs/{file.name}" for file in DOCS.glob("*.md")), *hooks.PAGES]
    # The README's own place is the index; it is no page of the site.
    for page in set(pages) - {"README.md"}:
        text, _, wrong = hooks.rewritten((REPOSITORY / page).read_text(), page)
        assert wrong == []
        for link in re.findall(r"\]\(([\w.-]+\.md)[)#]", text):
            assert (DOCS / link).is_file() or link in hooks.PAGES.values(), f"{page}: {link}"


def test_every_page_has_its_place() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]

    # mkdocs.yml names a Python function, which a safe loader refuses: only its tree is read.
    mkdocs: Any = yaml.compose((REPOSITORY / "mkdocs.yml").read_text(), yaml.SafeLoader)
    nav = next(value for key, value in mkdocs.value if key.value == "nav")
    found = pages(yaml.safe_load(yaml.serialize(nav)))
    assert len(found) == len(set(found))
    assert set(found) == {file.name for file in DOCS.glob("*.md")} | set(hooks.PAGES.values())


def test_the_page_of_keys_is_that_of_the_types() -> None:
    made = script("recipe_keys").page()
    assert (DOCS / "recipe_keys.md").read_text() == made, "python docs/recipe_keys.py"
    for row in (
        r"\| `optim.lr_weights` \| number, 0 to 1e38 \| `0.2` \| no \| Base learning rate",
        r"\| `run.resume` \| string, not empty \| `latest` \| yes \|",
        r"\| `data.train` \| string, not empty, or non-empty list of: string, not empty \| required \| yes \|",
        r"\| `blur_p` \| number, a probability, 0 to 1 \| a `1.0`, b `0.1` \|",
        r"\| `linear.epochs` \| integer, 1 to 1e9 \| `100` \| Number of training epochs",
    ):
        assert re.search(row, made), row


def test_the_page_of_commands_is_that_of_the_parsers() -> None:
    assert (DOCS / "command_line.md").read_text() == script("command_line").page(), "python docs/command_line.py"


def test_the_page_of_errors_has_the_messages_of_today() -> None:
    assert (DOCS / "errors.md").read_text() == script("errors").page(), "python docs/errors.py"


def test_every_public_name_is_on_the_page_of_the_python_api() -> None:
    shown = set(re.findall(r"^::: (\S+)$", (DOCS / "python_api.md").read_text(), flags=re.MULTILINE))
    for package in (bt_plugin, dali_pipelines):
        assert {f"{package.__name__}.{name}" for name in package.__all__ if name != "__version__"} <= shown


def test_citation_and_package_have_one_version() -> None:
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == __version__


def test_the_gate_builds_the_site() -> None:
    assert "make docs" in Path(REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    ("file", "text", "rules"),
    [
        ("page.md", "The run goes on from here.\n", ["phrase"]),
        ("page.md", "`goes on` and\n\n```\nwho makes the views\n```\n", []),
        ("page.md", f"It has {'many ' * 35}words.\n", ["sentence"]),
        ("page.md", f"It has {'many ' * 20}words. It has {'many ' * 20}words.\n", []),
        ("page.md", "| a | the colour |\n|---|---|\n", ["spelling"]),
        ("code.py", '"""Of a run."""\n', ["docstring"]),
        ("code.py", 'def f(a):\n    """Return it.\n\n    Args:\n        a: Of a run.\n    """\n', ["docstring"]),
        ("code.py", "# nobody waits\nx = 1\n", ["phrase"]),
        ("code.py", 'raise ValueError(f"{x}: the same line goes on")\n', ["phrase", "phrase"]),
        ("tests/code.py", '"""Of a run."""\n', []),
    ],
)
def test_words_are_checked(
    file: str, text: str, rules: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_words = script("check_words")
    monkeypatch.setattr(check_words, "REPOSITORY", tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert [find.rule for find in check_words.check(file)] == rules


@pytest.mark.parametrize(
    "module",
    [
        "bt_plugin.config.recipe_file",
        "bt_plugin.loss.barlow_twins",
        "bt_plugin.models.backbones",
        "bt_plugin.models.barlow_twins",
        "bt_plugin.optim.lars",
        "bt_plugin.optim.parameter_groups",
        "bt_plugin.optim.schedule",
    ],
)
def test_examples_of_docstrings_run(module: str) -> None:
    """Those that need no data; the others are shown with data of the reader's."""
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert failed == 0
    assert attempted > 0
