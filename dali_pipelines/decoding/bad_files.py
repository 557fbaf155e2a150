"""Replace bad files, so that one bad file among a million does not stop a run, and count them."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import BadImageError

logger = logging.getLogger(__name__)


class BadFiles:
    """The bad files of a source, and their replacements.

    Each bad file is replaced by the next good one in the source's order. The replacement depends on the files alone, so
    a resumed stream is the same. Each rank replaces its own bad files, so all ranks keep the same number of steps.

    Args:
        n_files: Number of files of the source.
        most: Largest number of bad files that are accepted, 0 or more.
    """

    def __init__(self, n_files: int, most: int) -> None:
        self._n_files = n_files
        self._most = most
        self.indices: set[int] = set()

    def add(self, error: BadImageError) -> None:
        """Count and log a bad file.

        Args:
            error: Error of the file.

        Raises:
            BadImageError: If there are more bad files than are accepted, or no good file is left.
        """
        self.indices.add(error.index)
        count = len(self.indices)
        if count > self._most or count == self._n_files:
            raise BadImageError(
                f"{error}. Now {count} of {self._n_files} files are bad, and max_bad_files is {self._most}",
                error.index,
            )
        logger.warning("%s. Another image replaces it; bad file %d of at most %d", error, count, self._most)

    def replaced(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices, with each bad file replaced by a good one.

        Args:
            indices: Positions of files in the source, (n,) int64.
        """
        if not self.indices.intersection(indices.tolist()):
            return indices
        return np.array([self._good(index) for index in indices.tolist()], dtype=np.int64)

    def _good(self, index: int) -> int:
        while index in self.indices:
            index = (index + 1) % self._n_files
        return index
