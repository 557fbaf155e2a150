"""The loaders in processes that Lightning starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dali_pipelines import Backend, TwoViewLoader
from tests.conftest import REPOSITORY
from tests.dali_pipelines.conftest import SMALL


@pytest.mark.distributed
def test_ranks_that_lightning_starts_share_the_images(small_data: Path, tmp_path: Path) -> None:
    """Their loaders are made before the group is: each rank has its part, and they never overlap."""
    command = [sys.executable, "-m", "tests.dali_pipelines.lightning_ranks", str(small_data), str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=300)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [len(rank["trained"]) for rank in ranks] == [4, 4], "36 images, two ranks of eight: two steps an epoch"
    single = TwoViewLoader(small_data / "train", 16, SMALL, backend=Backend(device="cpu"))
    for step, batch in enumerate([*single, *single]):
        assert ranks[0]["trained"][step] + ranks[1]["trained"][step] == batch.filenames
    validated = [set(rank["validated"]) for rank in ranks]
    assert len(validated[0] | validated[1]) == 12
    assert not validated[0] & validated[1]
