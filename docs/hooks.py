"""Hooks of mkdocs, which make a site of pages that are written for a code host.

Pages link to files of the repository outside docs/. The hooks copy each such file into the site, under its path in the
repository, and point the link to the copy. A link to a missing file is a warning, and `mkdocs build --strict` turns
warnings into errors. Links to the README lead to the site's front page.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
# Files of the repository, and the pages of the site that show them.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/LOG.md": "tried.md",
    "benchmarks/README.md": "benchmarks.md",
}
# Code comes first, so that text in code that looks like a link is not rewritten.
_CODE_OR_LINK = re.compile(r"```.*?```|`[^`\n]*`|\]\((?P<link>[^)\s]+)\)", flags=re.DOTALL)
_ELSEWHERE = re.compile(r"[a-z]+:|#|/")

# mkdocs counts the warnings of loggers whose names begin with its own.
logger = logging.getLogger("mkdocs.hooks.links")


class LinkError(ValueError):
    """A link to a file that is missing, or that the site cannot show."""


def site_path(link: str, page: str) -> tuple[str, str | None]:
    """Return the path to which a link of a page leads on the site.

    Args:
        link: Path relative to the page, as the page has it.
        page: Path of the page in the repository.

    Returns:
        The path on the site, and the file of the repository that must be copied there, or None.

    Raises:
        LinkError: If the file does not exist, or is a folder.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if target in PAGES:
        return PAGES[target], None
    if target.startswith("docs/"):
        return target.removeprefix("docs/"), None  # mkdocs itself checks that it exists
    if (REPOSITORY / target).is_dir():
        raise LinkError(f"{page}: {link} is a folder, which a site does not list; link to a file in it")
    if target.startswith("..") or not (REPOSITORY / target).is_file():
        raise LinkError(f"{page}: {link} leads to {target}, which is not in the repository")
    return target, target


def rewritten(text: str, page: str) -> tuple[str, set[str], list[str]]:
    """Rewrite the links of a page for the site.

    Args:
        text: Markdown of the page.
        page: Path of the page in the repository.

    Returns:
        The new text, the files that must be copied into the site, and a message for each wrong link.
    """
    copied: set[str] = set()
    wrong: list[str] = []
    here = posixpath.dirname(PAGES.get(page, page.removeprefix("docs/")))

    def replaced(match: re.Match[str]) -> str:
        link = match["link"]
        if link is None or _ELSEWHERE.match(link):
            return match[0]
        path, hash_sign, anchor = link.partition("#")
        try:
            target, file = site_path(path, page)
        except LinkError as error:
            wrong.append(str(error))
            return match[0]
        copied.update([file] if file else [])
        return f"]({posixpath.relpath(target, here or '.')}{hash_sign}{anchor})"

    return _CODE_OR_LINK.sub(replaced, text), copied, wrong


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are stored outside docs/, and the files to which pages link."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(REPOSITORY / name).read_text(encoding="utf-8")))
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    for file in sorted({file for uri, text in pages for file in rewritten(text, _source(uri))[1]}):
        files.append(File.generated(config, file, abs_src_path=str(REPOSITORY / file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page, and warn of those that lead nowhere."""
    text, _, wrong = rewritten(markdown, _source(page.file.src_uri))
    for message in wrong:
        logger.warning(message)
    # Without an empty line, Python-Markdown treats a table as part of the comment above it.
    return re.sub(r"^(<!--.*-->)$", r"\1\n", text, flags=re.MULTILINE)


def _source(uri: str) -> str:
    """Return the path in the repository of a page of the site."""
    written = (REPOSITORY / "docs" / uri).is_file()
    return f"docs/{uri}" if written else next(name for name, page in PAGES.items() if page == uri)
