"""Write checkpoints in the background during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from bt_plugin.checkpoints.folder import CheckpointMetadata, NewCheckpoint, checkpoints, prune
from bt_plugin.checkpoints.reader import first_failure
from bt_plugin.checkpoints.state import TrainingState
from bt_plugin.errors import CheckpointError, file_error
from bt_plugin.runtime import collectives


class CheckpointWriter:
    """A writer of RUN/checkpoint-STEP in a thread. Each rank writes its part, one checkpoint at a time.

    Training waits while the state is copied, and for an earlier checkpoint that is still being written. Call all
    methods on every rank.

    Args:
        state: Training state of the run.
        run_dir: Directory of the run, on a file system that all ranks share.
        keep: Number of checkpoints to keep, 1 or more. Older ones are removed when a new one is complete.
        keep_step: Step whose checkpoint is kept in addition, if there is one.
    """

    def __init__(self, state: TrainingState, run_dir: Path, *, keep: int, keep_step: int | None = None) -> None:
        self._state = state
        self._run_dir = run_dir
        self._keep, self._keep_step = keep, keep_step
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None
        self._step = 0
        self._is_told = True

    @property
    def has_failed(self) -> bool:
        """Whether this rank already knows that the current checkpoint failed."""
        return self._under_way is not None and self._under_way.done() and self._under_way.exception() is not None

    def take_written(self) -> int | None:
        """Return the step of the newest checkpoint if this rank has written it since the last call, else None."""
        is_written = self._under_way is None or (self._under_way.done() and not self.has_failed)
        if self._is_told or not is_written:
            return None
        self._is_told = True
        return self._step

    def write(self, metadata: CheckpointMetadata) -> None:
        """Begin to write a checkpoint of the current state.

        Args:
            metadata: Description of the checkpoint. Rank 0's is stored.

        Raises:
            CheckpointError: If any rank cannot write this checkpoint or the one before. Every rank raises it.
        """
        self.settle()
        new = NewCheckpoint(self._run_dir, metadata.step)
        self._check(metadata.step, [collectives.from_main(lambda: _failure_of(new.begin))])
        self._step, self._is_told = metadata.step, False
        self._under_way = self._thread.submit(self._write, new, self._state.copied(), metadata)

    def settle(self) -> None:
        """Wait until the current checkpoint is complete.

        Raises:
            CheckpointError: If any rank could not write. Every rank raises it. Earlier checkpoints are intact.
        """
        if self._under_way is None:
            return
        under_way, self._under_way = self._under_way, None
        self._check(self._step, collectives.all_gather_objects(_failure_of(under_way.result)))

    def close(self) -> None:
        """Wait for the thread to end, also if it failed."""
        self._thread.shutdown()

    def _write(self, new: NewCheckpoint, state: dict[str, Any], metadata: CheckpointMetadata) -> None:
        try:
            dcp.save(state, storage_writer=dcp.FileSystemWriter(new.folder), process_group=self._state.group)
            if collectives.is_main():
                new.complete(metadata)
                prune(self._run_dir, self._keep, keep_step=self._keep_step)
        except BaseException:
            if collectives.is_main():
                new.abandon()
            raise

    def _check(self, step: int, failures: Sequence[str | None]) -> None:
        for failure in filter(None, failures):
            newest = collectives.from_main(lambda: next(reversed(checkpoints(self._run_dir)), None))
            raise CheckpointError(
                f"{self._run_dir}/checkpoint-{step} cannot be written: {failure}."
                f" {f'{newest.name} is intact' if newest else 'There is no earlier checkpoint'}. Check that the folder"
                " exists and has free space, then rerun the same command"
            )


def _failure_of(action: Callable[[], object]) -> str | None:
    # Python, torch and torch's checkpoints each raise another error if the disk is full.
    try:
        action()
    except CheckpointException as error:
        return first_failure(error)
    except OSError as error:
        return str(file_error(error))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
