"""The options of remote data: where fetched bytes are kept, and how many."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Storage:
    """Options of data that is fetched from a URL.

    Args:
        cache_dir: Folder of the cache; ~ is the home directory. None is dali_pipelines/objects in $XDG_CACHE_HOME, by
            default in ~/.cache.
        cache_gib: Largest size of the cache, in GiB, for all ranks of a host together, 0 or more. 0 keeps nothing.

    Raises:
        ValueError: If cache_gib is negative or not finite.
    """

    cache_dir: str | None = None
    cache_gib: float = 10.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cache_gib) and self.cache_gib >= 0):
            raise ValueError(f"cache_gib: {self.cache_gib} is not allowed; it must be 0 or more")

    @property
    def folder(self) -> Path | None:
        """The folder of the cache, or None if it has no absolute path, as without a home directory."""
        default = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "dali_pipelines", "objects")
        folder = os.path.expanduser(self.cache_dir or default)
        if self.cache_dir:
            return Path(folder).absolute()
        return Path(folder) if os.path.isabs(folder) else None


DEFAULT = Storage()
