"""Two ranks of a host, as processes: they share the cache, and fetch each range once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from dali_pipelines import TwoViewLoader, image_folder, open_source
from dali_pipelines.backend import Backend
from tests.conftest import REPOSITORY
from tests.dali_pipelines.conftest import SMALL
from tests.tar_files import write_shard
from tests.web import nginx


@pytest.mark.distributed
def test_two_ranks_share_a_cache_and_see_the_batches_of_the_folder(small_data: Path, tmp_path: Path) -> None:
    images = image_folder(small_data / "train")
    (tmp_path / "root").mkdir()
    for shard in range(2):
        members = {f"{index:03}.jpg": images.read(index).tobytes() for index in range(shard, len(images), 2)}
        write_shard(tmp_path / "root" / f"s-{shard}.tar", members)
    with nginx(tmp_path / "root", tmp_path / "nginx") as server:
        ranks = [_started(f"{server.url}/s-{{0..1}}.tar", tmp_path, rank) for rank in range(2)]
        for epoch in range(2):
            lines = [rank.stdout.readline() for rank in ranks]  # type: ignore[union-attr]
            for rank, line in enumerate(lines):
                loader = TwoViewLoader(
                    open_source(f"{tmp_path}/root/s-*.tar"),
                    4,
                    SMALL,
                    backend=Backend("native", device="cpu", num_threads=1),
                    rank=rank,
                    world_size=2,
                )
                loader.load_state_dict({**loader.state_dict(), "epoch": epoch})
                expected = [
                    [batch.filenames, hashlib.sha256(b"".join(v.numpy().tobytes() for v in batch.views)).hexdigest()]
                    for batch in loader
                ]
                assert json.loads(line) == expected
            for rank in ranks:
                rank.stdin.write("\n")  # type: ignore[union-attr]
                rank.stdin.flush()  # type: ignore[union-attr]
        assert [rank.wait(60) for rank in ranks] == [0, 0]
        read = [line.split(" ")[4] for line in server.log.read_text().splitlines() if ".tar" in line]
    times = Counter(each for each in read if each != "bytes=0-0")
    assert max(times.values()) == 2, "the range of the same name in each of two shards"
    assert server.sent_bytes(".tar") < 1.05 * sum(path.stat().st_size for path in (tmp_path / "root").iterdir())


def _started(url: str, folder: Path, rank: int) -> subprocess.Popen[str]:
    environment = os.environ | {
        "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "XDG_CACHE_HOME": str(folder / "xdg"),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.dali_pipelines.storage.two_ranks", url, str(folder / "cache"), str(rank)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY, env=environment)
