"""From runs to a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from bt_plugin.errors import UserError
from bt_plugin.report.embedding_map import EmbeddingMap, embedding_map
from bt_plugin.report.page import page
from bt_plugin.report.record import RunRecord, read_runs
from bt_plugin.runs.atomic_file import write_atomically
from dali_pipelines.errors import BadImageError

logger = logging.getLogger(__name__)


def write_report(folders: Sequence[Path], output: Path, map_images: int) -> None:
    """Writes the page of one run, or of several beside each other, done or not.

    Args:
        folders: Of the runs.
        output: The file; one that is there is replaced.
        map_images: On each run's map at most; 0 for none.

    Raises:
        RecipeError: If a folder holds no run.
    """
    runs = read_runs(folders)
    maps = {run.name: _map_of(run, map_images) for run in runs}
    output.parent.mkdir(parents=True, exist_ok=True)
    # Names of files need not be UTF-8, and a page must.
    write_atomically(output, page(runs, maps).encode("utf-8", "replace"))


def _map_of(run: RunRecord, most: int) -> EmbeddingMap | str:
    """The map, or why there is none: images may be elsewhere by now, and all the rest can be shown."""
    if most == 0:
        return "none was asked for."
    try:
        return embedding_map(run, most)
    except (UserError, BadImageError, OSError) as error:
        logger.warning("no map of %s: %s", run.name, error)
        return str(error)
