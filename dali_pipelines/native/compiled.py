"""numba's compiler as the kernels use it: with a cache where one can be written, and without where not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

logger = logging.getLogger(__name__)

# No NaN or infinity comes in, and nothing more is allowed: reordered sums or fused multiply-adds would round as the
# compiler likes, which is one way when a process compiles and another when it finds the code in numba's cache; and the
# colour steps would not truncate as PIL's do. It costs nothing: loops over rows are vectorised all the same.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "ninf", "nsz"}}

_reasons: list[str] = []


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, or take it from numba's cache.

    numba refuses to compile where no folder for its cache can be written, such as under a read-only home; and fails
    where the disk is full. Neither keeps a loader from its work.
    """
    try:
        dispatcher = njit(cache=True, **_OPTIONS)(function)
    except RuntimeError as error:  # numba has no class of its own for it
        _note(str(error))
        return njit(**_OPTIONS)(function)
    save = dispatcher._cache.save_overload

    def save_if_possible(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError as error:
            _note(str(error))

    dispatcher._cache.save_overload = save_if_possible
    return dispatcher


def why_not_cached() -> str | None:
    """Return why compiled code is not kept for the next start; None where it is."""
    return _reasons[0] if _reasons else None


def _note(reason: str) -> None:
    if not _reasons:
        logger.warning(
            "compiled code is not kept (%s), so that each start compiles for about ten seconds; set $NUMBA_CACHE_DIR to"
            " a folder that can be written",
            reason,
        )
    _reasons.append(reason)
