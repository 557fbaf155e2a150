"""The images of tar shards from their index, with the rules for names and labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.files import ENDINGS
from dali_pipelines.sources.index_cache import Index
from dali_pipelines.sources.names import Names

logger = logging.getLogger(__name__)


class ShardImages(NamedTuple):
    """Images of tar shards.

    Args:
        names: Names of the images, SHARD/MEMBER.
        labels: Labels as text; empty if no image has one.
        shard_of: Number of each image's shard, (n,) int64.
        offsets: Position of each image's bytes in its shard, (n,) int64.
        sizes: Number of each image's bytes, (n,) int64.
    """

    names: Names
    labels: list[str]
    shard_of: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


def images_of(pattern: str, index: Index, suffixes: Sequence[str]) -> ShardImages:
    """Return the images of an index (see members_of).

    Args:
        pattern: Shards as the user wrote them, for messages.
        index: Index of the shards.
        suffixes: Suffixes of images, as in members_of.

    Raises:
        ValueError: If there are no images, or only some have a label.
    """
    names, left_out = Names(index["names"], index["ends"]), Names(index["left_out"], index["left_out_ends"])
    shards = len(index["counts"])
    if left_out:
        logger.warning(
            "%s: %d members are links and are left out, such as %s; write the shards with --dereference and"
            " --hard-dereference", pattern, len(left_out), left_out[0],
        )  # fmt: skip
    if not names:
        rule = (
            f"members named KEY.{' or KEY.'.join(suffixes)} are images"
            if suffixes
            else ENDINGS.replace("files", "members")
        )
        raise ValueError(f"{pattern}: {shards} shard(s) have no images; {rule}")
    labels = list(Names(index["labels"], index["label_ends"]))
    if not all(labels):
        if any(labels):
            raise ValueError(
                f"{names[labels.index('')]} has no .cls member, and other images have one; give all images one, or none"
            )
        labels = []
    shard_of = np.repeat(np.arange(shards), index["counts"])
    return ShardImages(names, labels, shard_of, index["offsets"], index["sizes"])
