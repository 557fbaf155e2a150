"""A rank of a test: load two epochs of remote shards, and print what was seen as JSON. Started as a program."""

from __future__ import annotations

import hashlib
import json
import sys

from dali_pipelines import TwoViewLoader, open_source
from dali_pipelines.backend import Backend
from dali_pipelines.sources import Storage
from tests.dali_pipelines.conftest import SMALL


def main() -> None:
    url, cache, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    source = open_source(url, storage=Storage(cache))
    backend = Backend("native", device="cpu", num_threads=1)
    loader = TwoViewLoader(source, 4, SMALL, backend=backend, rank=rank, world_size=2)
    for _ in range(2):
        seen = [
            (batch.filenames, hashlib.sha256(b"".join(view.numpy().tobytes() for view in batch.views)).hexdigest())
            for batch in loader
        ]
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()
        sys.stdin.readline()


if __name__ == "__main__":
    main()
