"""Compile the kernels with numba, with a cache if one can be written, and otherwise without."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

logger = logging.getLogger(__name__)

# The inputs have no NaN and no infinity. No other fast-math flag is allowed. With reordered sums or fused
# multiply-adds, the compiler chooses the rounding. It would differ between a process that compiles and one that loads
# the code from numba's cache, and the color steps would not truncate as PIL's do. Leaving those flags out costs no
# speed, because loops over rows are vectorized anyway.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "ninf", "nsz"}}

_reasons: list[str] = []


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, or load it from numba's cache.

    numba refuses to compile if it cannot write a cache folder, as in a read-only home, and fails if the disk is full.
    In both cases the function is compiled without a cache.

    Args:
        function: Function to compile.
    """
    try:
        dispatcher = njit(cache=True, **_OPTIONS)(function)
    except RuntimeError as error:  # numba has no narrower class for this error
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
    """Return the reason why compiled code is not kept for the next start, or None if it is kept."""
    return _reasons[0] if _reasons else None


def _note(reason: str) -> None:
    if not _reasons:
        logger.warning(
            "compiled code is not kept (%s), so each start compiles for about ten seconds; set $NUMBA_CACHE_DIR to a"
            " folder that can be written",
            reason,
        )
    _reasons.append(reason)
