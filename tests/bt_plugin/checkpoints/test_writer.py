"""Checkpoints are written during training: what they contain, what waits, and what a full disk leaves."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from bt_plugin.checkpoints.folder import checkpoints, damage_of
from bt_plugin.checkpoints.state import TrainingState
from bt_plugin.checkpoints.writer import CheckpointWriter
from bt_plugin.errors import CheckpointError
from tests.ranks import run_ranks
from tests.saved import metadata_of, save, state_of, weights_in


@pytest.fixture
def model() -> nn.Linear:
    return nn.Linear(300, 200)


@pytest.fixture
def state(model: nn.Linear) -> TrainingState:
    return state_of(model)


@contextmanager
def full_disk(after_bytes: int) -> Iterator[None]:
    """The system refuses to make a file larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def slow(writer: CheckpointWriter) -> Iterator[None]:
    """Nothing is written before the end."""
    gate = threading.Event()
    writer._thread.submit(gate.wait)
    try:
        yield
    finally:
        gate.set()


def test_training_goes_on_and_the_checkpoint_is_of_before(
    state: TrainingState, model: nn.Linear, tmp_path: Path
) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    writer = CheckpointWriter(state, tmp_path, keep=3)
    with slow(writer):
        writer.write(metadata_of(5))
        assert checkpoints(tmp_path) == []
        nn.init.zeros_(model.weight)
    writer.close()
    assert damage_of(tmp_path / "checkpoint-5") is None
    written = weights_in(tmp_path / "checkpoint-5")
    assert all(torch.equal(written[key], before[key]) for key in before)


def test_the_next_one_waits_for_it(state: TrainingState, tmp_path: Path) -> None:
    writer = CheckpointWriter(state, tmp_path, keep=1)
    with slow(writer):
        writer.write(metadata_of(5))
        second = threading.Thread(target=writer.write, args=[metadata_of(6)])
        second.start()
        time.sleep(0.1)
        assert second.is_alive()
    second.join()
    assert (tmp_path / "checkpoint-5").is_dir()
    writer.settle()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"], "pruned when the new one was complete"


@pytest.mark.parametrize("room_bytes", [0, 1000, 300_000])
def test_a_full_disk_leaves_the_earlier_one(state: TrainingState, tmp_path: Path, room_bytes: int) -> None:
    """The weights have 240,800 bytes, and so has their momentum."""
    with (
        full_disk(room_bytes),
        pytest.raises(CheckpointError, match=r"cannot be written: .* There is no earlier checkpoint"),
    ):
        save(state, tmp_path, 1)
    save(state, tmp_path, 1, keep=1)
    with full_disk(room_bytes), pytest.raises(CheckpointError, match=r"checkpoint-2 cannot be written: .*"):
        save(state, tmp_path, 2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert damage_of(tmp_path / "checkpoint-1") is None
    with full_disk(room_bytes), pytest.raises(CheckpointError, match=r"checkpoint-1 is intact\. Check that"):
        save(state, tmp_path, 2, keep=1)
    assert save(state, tmp_path, 3, keep=1).exists()


def test_a_failure_is_known_before_the_next_one(state: TrainingState, tmp_path: Path) -> None:
    """So that a run does not train for an epoch without checkpoints."""
    writer = CheckpointWriter(state, tmp_path, keep=1)
    assert not writer.has_failed
    writer.write(metadata_of(1))
    writer.settle()
    assert not writer.has_failed
    with full_disk(1000):
        writer.write(metadata_of(2))
        deadline_s = time.monotonic() + 10
        while not writer.has_failed:
            assert time.monotonic() < deadline_s
    with pytest.raises(CheckpointError, match="checkpoint-2 cannot be written"):
        writer.write(metadata_of(3))
    writer.write(metadata_of(3))
    writer.close()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3"]


def test_a_directory_that_is_gone(state: TrainingState, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone/checkpoint-1 cannot be written: .*No such file or directory"):
        save(state, tmp_path / "gone", 1)


def failing_on_one_rank(rank: int, run_dir: str) -> tuple[str, list[str]]:
    state = state_of(nn.Linear(300, 200))
    save(state, Path(run_dir), 1)
    error = ""
    try:
        with full_disk(1000 if rank == 1 else 1 << 40):
            save(state, Path(run_dir), 2)
    except CheckpointError as caught:
        error = str(caught)
    return error, [path.name for path in checkpoints(Path(run_dir))]


@pytest.mark.distributed
def test_all_ranks_learn_of_ones_failure(tmp_path: Path) -> None:
    first, second = run_ranks(2, failing_on_one_rank, str(tmp_path))
    assert first == second
    assert "checkpoint-2 cannot be written: " in first[0]
    assert "(rank 1). checkpoint-1 is intact" in first[0]
    assert first[1] == ["checkpoint-1"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def failing_at_the_end(rank: int, run_dir: str) -> str:
    """Every part is written, and rank 0 cannot give the folder its name."""
    if rank == 0:
        for name in ("checkpoint-1", ".damaged-checkpoint-1.partial"):
            (Path(run_dir) / name).mkdir()
            (Path(run_dir) / name / "in the way").touch()
    try:
        save(state_of(nn.Linear(3, 2)), Path(run_dir), 1)
    except CheckpointError as caught:
        return str(caught)
    return ""


@pytest.mark.distributed
def test_all_ranks_learn_of_the_mains_failure(tmp_path: Path) -> None:
    for error in run_ranks(2, failing_at_the_end, str(tmp_path)):
        assert "checkpoint-1 cannot be written: " in error
