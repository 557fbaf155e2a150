"""Check what the product did with a hostile input."""

from __future__ import annotations

import re
import signal

from hostile_cases import CODE, HANG, REFUSAL, SILENT, TRACEBACK, FailedError
from hostile_cases_process import Raised, Result

# A process that is forked from one with torch has about 500 MB. More memory than this limit is a fault.
MOST_RESIDENT_MB = 3000
# The limit for the message about one input.
_MOST_CHARACTERS, _MOST_LINES = 4000, 15


def sound(result: Result, most_characters: int = _MOST_CHARACTERS) -> Result:
    """Raise FailedError for results that are never allowed, whatever the input."""
    if result.hung:
        raise FailedError(HANG, f"still running after {result.seconds:.0f} s {result.tail}")
    if result.code < 0:
        raise FailedError(TRACEBACK, f"died of {signal.Signals(-result.code).name} {result.tail}")
    if "Traceback (most recent call last)" in result.err + result.out:
        raise FailedError(TRACEBACK, _short(result.err.strip().rpartition('\n  File "')[2]))
    if result.peak_mb > MOST_RESIDENT_MB:
        raise FailedError(HANG, f"took {result.peak_mb:.0f} MB")
    # Progress bars and DALI's own lines use colors and "cursor up", which are allowed.
    if re.search("[\x1b\x9b]", re.sub(r"\x1b\[([0-9;]*m|A)", "", result.out + result.err)):
        raise FailedError(CODE, f"an escape sequence reached the terminal {result.tail}")
    if len(result.err) > most_characters:
        raise FailedError(REFUSAL, f"{len(result.err)} characters were printed")
    return result


def accepted(result: Result, *needles: str | tuple[str, ...]) -> Result:
    """Check that a right input was accepted, and that the warnings in needles were printed."""
    sound(result)
    if result.code != 0:
        raise FailedError(REFUSAL, f"refused, though right: exit {result.code} {result.tail}")
    _find(needles, result.err + result.out)
    return result


def refused(result: Result, *needles: str | tuple[str, ...], code: int = 2) -> Result:
    """Check that a wrong input was refused with all needles in the message. Of a tuple, one needle is enough."""
    sound(result)
    if result.code == 0:
        raise FailedError(SILENT, f"exit 0, though wrong {result.tail}")
    if result.code != code:
        raise FailedError(TRACEBACK, f"exit {result.code} {result.tail}")
    if len(result.message.strip().splitlines()) > _MOST_LINES:
        raise FailedError(REFUSAL, f"{len(result.message.splitlines())} lines")
    _find(needles, result.message if code == 2 else result.err + result.out)
    return result


def either(result: Result, *needles: str | tuple[str, ...]) -> bool:
    """Return whether the input was accepted, for the caller to check, or check that it was refused with the needles."""
    sound(result)
    if result.code == 0:
        return True
    refused(result, *needles)
    return False


def raises(result: Result, *needles: str | tuple[str, ...]) -> bool:
    """Return whether a call raised a documented exception. Any other exception is a failure."""
    if isinstance(result.value, Raised):
        if not result.value.promised:
            raise FailedError(TRACEBACK, f"{result.value.kind}: {_short(result.value.message)}")
        if len(result.value.message) > _MOST_CHARACTERS:
            raise FailedError(REFUSAL, f"{len(result.value.message)} characters of message")
        _find(needles, result.value.message)
        return True
    sound(result, 1 << 20)
    if result.code != 0:
        raise FailedError(TRACEBACK, f"exit {result.code} {result.tail}")
    return False


def right(is_right: bool, seen: object) -> None:
    """Raise FailedError for a result that is silently wrong."""
    if not is_right:
        raise FailedError(SILENT, str(seen)[:300])


def helpful(has_way_out: bool, seen: object) -> None:
    """Raise FailedError for a message that does not help."""
    if not has_way_out:
        raise FailedError(REFUSAL, str(seen)[:300])


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-200:]}"


def _find(needles: tuple[str | tuple[str, ...], ...], text: str) -> None:
    for needle in needles:
        if not any(each.lower() in text.lower() for each in ([needle] if isinstance(needle, str) else needle)):
            raise FailedError(REFUSAL, f"{needle!r} is not in the message {text[-300:]!r}")
