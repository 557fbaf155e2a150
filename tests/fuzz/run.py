"""Fuzz one reader with atheris: python -m tests.fuzz.run TARGET SECONDS. Install it first: pip install atheris.

The fuzzer starts from the files of tests/fuzz/corpus/TARGET. It writes an input that finds a fault to ./crash-*. Add
such an input to the corpus, as small as it can be, so that the test suite replays it.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

CORPUS = Path(__file__).parent / "corpus"

with atheris.instrument_imports(include=["bt_plugin", "dali_pipelines", "tests.fuzz", "yaml", "tarfile", "zipfile"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, seconds = sys.argv[1:3]
    target = TARGETS[name]
    logging.disable(logging.WARNING)
    with atheris.instrument_imports(include=["bt_plugin", "dali_pipelines", "yaml", "tarfile", "zipfile"]):
        target(b"")  # imports what it needs
    found = tempfile.mkdtemp(prefix=f"found-{name}-")
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=4096", *sys.argv[3:]]
    atheris.Setup([sys.argv[0], *options, found, str(CORPUS / name)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
