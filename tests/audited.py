"""`python -m bt_plugin`, with a note in $AUDIT/RANK of every file that this rank opens to write."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from bt_plugin.cli import main

_NOTES = Path(os.environ["AUDIT"]) / os.environ.get("RANK", "0")
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open":
        return
    path, mode, flags = arguments
    writes = set(mode) & set("wax+") if mode else flags & _TO_WRITE
    # Descriptors have been noted as paths already.
    if writes and not isinstance(path, int) and Path(os.fsdecode(path)) != _NOTES:
        with open(_NOTES, "a", encoding="utf-8") as notes:
            notes.write(f"{os.fsdecode(path)}\n")


if __name__ == "__main__":
    sys.addaudithook(_note)
    sys.exit(main())
