"""A storage that does not answer: the run saves its state, ends on all ranks at one step, and resumes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import bt_plugin
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import PreemptedError
from dali_pipelines.errors import StorageError
from dali_pipelines.orders import Order
from dali_pipelines.shards import Shards
from dali_pipelines.sources import FileSource, Upcoming, image_folder
from tests.bt_plugin.training.test_pretrain import learning
from tests.forks import run_forked

CHANGES = {"optim.epochs": 2, "eval.knn": False, "data.max_bad_files": 0}


class Fetched(FileSource):
    """Images of a storage that stops answering when it is asked for one of them, until it is repaired."""

    def __init__(self, folder: Path, broken: Path, *, reads_ahead: int = 8) -> None:
        images = image_folder(folder)
        super().__init__(images.root, images.names, labels=images.labels, classes=images.classes)
        self._broken = broken
        self.reads_ahead = reads_ahead
        self.told: list[Upcoming] = []

    def announce(self, upcoming: Upcoming) -> None:
        self.told.append(upcoming)

    def read(self, index: int) -> NDArray[np.uint8]:
        if self._broken.exists() and index == int(self._broken.read_text()):
            raise StorageError("https://images.example/train.tar: it did not answer within 60 s")
        # The first image says which depth all have, before there is a plan.
        is_told = index == 0 or any(index in upcoming.mine for upcoming in self.told)
        assert is_told or not self.reads_ahead, "an image is announced before it is read"
        return super().read(index)


def image_of_step(step: int, *, rank: int = 0, world_size: int = 1) -> int:
    """Return an image of a rank's batch in the first epoch of the small recipe, but not the first of all images."""
    return int(Shards(Order([(36, 1.0)]), 8 // world_size, rank, world_size).indices(0, step).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "step", "reads_ahead"), [("native", 0, 8), ("native", 2, 8), ("native", 2, 0), ("dali", 2, 8)]
)
def test_a_run_resumes_bit_for_bit_after_its_storage_is_back(
    small_recipe: Path, small_data: Path, tmp_path: Path, step: int, backend: str, reads_ahead: int
) -> None:
    broken = tmp_path / "broken"
    broken.write_text(str(image_of_step(step)))
    changes = {**CHANGES, "data.backend": backend}
    with pytest.raises(StorageError, match=r"it did not answer within 60 s\. Run the same command again to") as raised:
        bt_plugin.pretrain(small_recipe, changes, train=Fetched(small_data / "train", broken, reads_ahead=reads_ahead))
    # DALI asks for a batch before it returns the one before it, so that its run ends one step earlier.
    saved = step - (backend == "dali")
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == [f"checkpoint-{saved}"] * (saved > 0)
    assert ("resume from" in str(raised.value)) == (saved > 0)
    broken.unlink()
    source = Fetched(small_data / "train", broken, reads_ahead=reads_ahead)
    assert bt_plugin.pretrain(small_recipe, changes, train=source).step == 8
    uses = [upcoming.first_use for upcoming in source.told]
    assert not reads_ahead or uses[: 8 - saved] == [36 * (number // 4) + 8 * (number % 4) for number in range(saved, 8)]

    whole = {**changes, "run.output_dir": str(tmp_path / "whole")}
    bt_plugin.pretrain(small_recipe, whole, train=image_folder(small_data / "train"))
    assert learning(tmp_path / "run") == learning(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.distributed
def test_all_ranks_end_at_one_step(small_recipe: Path, small_data: Path, tmp_path: Path) -> None:
    broken, run_dir = tmp_path / "broken", load_recipe(small_recipe).run.output_dir
    broken.write_text(str(image_of_step(2, rank=1, world_size=2)))
    for attempt in range(2):
        arguments = map(str, (small_recipe, small_data / "train", broken, tmp_path))
        done = run_forked(2, "tests.bt_plugin.training.test_storage_failure", *arguments)
        assert done.returncode == 0, done.stderr
        main, other = ((tmp_path / str(rank)).read_text() for rank in range(2))
        if attempt == 0:
            resume = f"Run the same command again to resume from {run_dir}/checkpoint-2"
            assert main == f"PreemptedError: asked to stop at step 2. {resume}."
            assert other == f"StorageError: https://images.example/train.tar: it did not answer within 60 s. {resume}"
            broken.unlink()
    assert main == other == "step 8"


def run_rank(recipe: Path, data: Path, broken: Path, results: Path) -> None:
    """Pretrain as one of two ranks, and write how it ended."""
    try:
        end = f"step {bt_plugin.pretrain(recipe, CHANGES, train=Fetched(data, broken)).step}"
    except (StorageError, PreemptedError) as error:
        end = f"{type(error).__name__}: {error}"
    (results / os.environ["RANK"]).write_text(end)


if __name__ == "__main__":
    run_rank(*map(Path, sys.argv[1:]))
