"""One bad file among a million ends no run: what is shown in its place, and when there are too many."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import BadImageError

logger = logging.getLogger(__name__)


class BadFiles:
    """The files of a source that were found to be bad.

    Each is replaced by the next good one in the source's order: a function of the files alone, so that
    a resumed stream is the same, and of one rank alone, so that all make the same number of steps.

    Args:
        n_files: Of the source.
        most: That are accepted.
    """

    def __init__(self, n_files: int, most: int) -> None:
        self._n_files = n_files
        self._most = most
        self.indices: set[int] = set()

    def add(self, error: BadImageError) -> None:
        """Counts and logs a file.

        Raises:
            BadImageError: If there are more than are accepted, or none is left.
        """
        self.indices.add(error.index)
        count = len(self.indices)
        if count > self._most or count == self._n_files:
            raise BadImageError(
                f"{error}. With it {count} of {self._n_files} files are bad, and max_bad_files is {self._most}",
                error.index,
            )
        logger.warning("%s. Another image is shown instead; bad file %d of at most %d", error, count, self._most)

    def replaced(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The indices, with good files for bad ones."""
        if not self.indices.intersection(indices.tolist()):
            return indices
        return np.array([self._good(index) for index in indices.tolist()], dtype=np.int64)

    def _good(self, index: int) -> int:
        while index in self.indices:
            index = (index + 1) % self._n_files
        return index
