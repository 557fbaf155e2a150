"""Write the report of runs as an HTML file."""

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


def write_report(folders: Sequence[Path], output: Path, map_images: int, *, backbone: str | None = None) -> None:
    """Write the page about one run, or about several runs side by side. A run may be unfinished.

    Args:
        folders: Directories of the runs.
        output: The HTML file. An existing file is replaced.
        map_images: Largest number of images on the map of each run, 0 for no map.
        backbone: Function that builds a network of the user's own, as module:function. It is imported for the map.

    Raises:
        RecipeError: If a folder does not contain a run.
    """
    runs = read_runs(folders)
    maps = {run.name: _map_of(run, map_images, backbone) for run in runs}
    output.parent.mkdir(parents=True, exist_ok=True)
    # File names may contain bytes that are not UTF-8, but a page may not.
    write_atomically(output, page(runs, maps).encode("utf-8", "replace"))


def _map_of(run: RunRecord, most: int, backbone: str | None) -> EmbeddingMap | str:
    """Return the map, or the reason why there is none. Missing images must not stop the rest of the page."""
    if most == 0:
        return "the report was made with --map-images 0."
    try:
        return embedding_map(run, most, backbone)
    except (UserError, BadImageError, OSError) as error:
        logger.warning("the report has no map of %s: %s", run.name, error)
        return str(error)
