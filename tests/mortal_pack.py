"""Runs of `pack` that die at every moment. Each run is a fork.

python -m tests.mortal_pack FOLDER OPTIONS... packs into FOLDER/0, FOLDER/1 and so on. The run into FOLDER/n gets
SIGKILL at its change n of the files there, and is then left alone. The first run that lives to its end is the last.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from tests.mortal import group

if __name__ == "__main__":
    root = Path(sys.argv[1])
    for change in count(1):
        folder = root / str(change)
        command = ["pack", *sys.argv[2:3], str(folder), *sys.argv[3:]]
        if not group(command, folder, 1, change):
            break
        assert not group(command, folder, 1, None), "the second life is left alone"
