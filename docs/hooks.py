"""Hooks of mkdocs: the pages are written for a code host, and link to files of the repository outside docs/.

Such a file is copied into the site, under its path in the repository, and the link leads to the copy. A link to what is
not there is a warning, which `mkdocs build --strict` makes an error. The README's place is taken by the site's index.
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
# Files of the repository that are pages of the site, and which.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/LOG.md": "tried.md",
}
# Code first, so that what looks like a link in it is passed over.
_CODE_OR_LINK = re.compile(r"```.*?```|`[^`\n]*`|\]\((?P<link>[^)\s]+)\)", flags=re.DOTALL)
_ELSEWHERE = re.compile(r"[a-z]+:|#|/")

# mkdocs counts the warnings of its own loggers and of those below.
logger = logging.getLogger("mkdocs.hooks.links")


class LinkError(ValueError):
    """A link to what is not in the repository, or cannot be shown."""


def site_path(link: str, page: str) -> tuple[str, str | None]:
    """Where a link of a page leads on the site.

    Args:
        link: Relative to the page, as it is written.
        page: The page's path in the repository.

    Returns:
        The path on the site, and the path in the repository of the file that has to be copied there, if one has to.

    Raises:
        LinkError: If there is no such file, or it is a folder.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if target in PAGES:
        return PAGES[target], None
    if target.startswith("docs/"):
        return target.removeprefix("docs/"), None  # mkdocs itself looks whether it is there
    if (REPOSITORY / target).is_dir():
        raise LinkError(f"{page}: {link} is a folder, which a site does not list; link to a file in it")
    if target.startswith("..") or not (REPOSITORY / target).is_file():
        raise LinkError(f"{page}: {link} leads to {target}, which is not in the repository")
    return target, target


def rewritten(text: str, page: str) -> tuple[str, set[str], list[str]]:
    """A page with its links as they are on the site.

    Args:
        text: Markdown.
        page: The page's path in the repository.

    Returns:
        The text, the files that have to be copied into the site, and what is wrong.
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
    """Adds the pages that lie outside docs/, and the files that pages link to."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(REPOSITORY / name).read_text(encoding="utf-8")))
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    for file in sorted({file for uri, text in pages for file in rewritten(text, _source(uri))[1]}):
        files.append(File.generated(config, file, abs_src_path=str(REPOSITORY / file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites a page's links, and warns of those that lead nowhere."""
    text, _, wrong = rewritten(markdown, _source(page.file.src_uri))
    for message in wrong:
        logger.warning(message)
    # Python-Markdown takes a table for a part of the comment above it.
    return re.sub(r"^(<!--.*-->)$", r"\1\n", text, flags=re.MULTILINE)


def _source(uri: str) -> str:
    """The path in the repository of a page of the site."""
    written = (REPOSITORY / "docs" / uri).is_file()
    return f"docs/{uri}" if written else next(name for name, page in PAGES.items() if page == uri)
