"""The URLs that a user may name, and their form in messages."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import urljoin, urlsplit

# The extra that has the library of each protocol.
EXTRAS = {"s3": "s3", "gs": "gcs", "http": "http", "https": "http", "hf": "hf"}

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# Parameters of signed URLs of S3, Google, Azure and CloudFront, and what others name their secrets.
_SECRET = re.compile(
    r"(x-amz-.*|x-goog-.*|sig|signature|.*token|.*secret.*|.*password|passwd|pwd|auth|authorization|credentials?"
    r"|api[_-]?key|.*access[_-]?key(id)?|key-pair-id|googleaccessid|policy)",
    re.IGNORECASE,
)
_REMEDY = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use ~/.aws/credentials",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "hf": "set HF_TOKEN, or run `hf auth login`",
    "http": "write the login of the server into ~/.netrc",
}
_USER = re.compile(r"//[^/@\s'\"]*@")
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s'\"<>?#]*)\?[^\s'\"<>]*", re.IGNORECASE)
_HEADER = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?|\bbearer\s+)[^\s'\",]+", re.IGNORECASE
)


def is_url(path: str) -> bool:
    """Return whether a path is a URL, of any protocol."""
    return _URL.match(path) is not None


def protocol_of(url: str) -> str:
    """Return the protocol of a URL in lower case: s3, gs, http, https or hf."""
    match = _URL.match(url)
    assert match, "a URL"
    return match[1].lower()


def check_url(url: str) -> None:
    """Raise if a URL cannot be read, or has a secret in it.

    A recipe is copied into logs and checkpoints, so it must have no secret.

    Args:
        url: URL as the user wrote it.

    Raises:
        ValueError: If the protocol is unknown, or the URL has a password or is signed.
    """
    protocol = protocol_of(url)
    if protocol not in EXTRAS:
        raise ValueError(
            f"{scrubbed(url)}: {protocol}:// is not supported; use {', '.join(f'{each}://' for each in EXTRAS)}, or a"
            " path"
        )
    # A revision of the Hub stands behind an @ too, but not before the first slash.
    user = url.split("://", 1)[1].split("/", 1)[0].rpartition("@")[0]
    query = url.partition("?")[2].partition("#")[0]
    names = [each.partition("=")[0] for each in query.split("&")]
    secret = next((name for name in names if _SECRET.fullmatch(name)), None)
    if user or secret:
        what = "has a user name or password" if user else f"is signed ({secret})"
        remedy = _REMEDY.get("http" if protocol == "https" else protocol)
        raise ValueError(
            f"{scrubbed(url)}: the URL {what}. Recipes, logs and checkpoints would keep it. Remove it, and {remedy}"
        )


def scrubbed(text: str) -> str:
    """Return a text in which URLs have no user, no password and no query, and no header has a secret.

    Args:
        text: Message, perhaps of a library.
    """
    return _HEADER.sub(r"\1***", _QUERY.sub(r"\1?***", _USER.sub("//***@", text)))


def joined(folder: str, name: str) -> str:
    """Return the URL of a name that is relative to a folder, or the name if it is a URL.

    Args:
        folder: URL that ends with a slash.
        name: Relative path, or a URL.
    """
    if is_url(name):
        return name
    if protocol_of(folder) in ("http", "https"):
        return urljoin(folder, name)
    protocol, path = folder.split("://", 1)
    bucket, _, rest = path.partition("/")
    below = name.lstrip("/") if name.startswith("/") else posixpath.normpath(posixpath.join(rest, name))
    return f"{protocol}://{bucket}/{below}"


def suffix_of(url: str) -> str:
    """Return the suffix of a URL's path in lower case, such as ".csv", without its query."""
    return posixpath.splitext(urlsplit(url).path)[1].lower()
