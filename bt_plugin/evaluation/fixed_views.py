"""Draw the same random views of the same training images at each evaluation, and compute their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import backend_of
from bt_plugin.evaluation.finite import check_features
from bt_plugin.evaluation.subsets import at_most
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.monitoring.snapshot import Array
from bt_plugin.monitoring.view_pixels import rows_of
from bt_plugin.runtime import collectives
from dali_pipelines.loaders import TwoViewLoader
from dali_pipelines.sources import ImageSource

_SHOWN_IMAGES = 8
# LiDAR's images, and how often both views of each are drawn: 8 views an image.
_LIDAR_IMAGES = 256
_LIDAR_DRAWS = 4


class TwoViews(NamedTuple):
    """Both views of the images of all ranks, on the device.

    Args:
        picture: Image of this rank's first views.
        features_a: (N, F) float32, features of view a.
        features_b: (N, F) float32, features of view b.
        z_a: (N, D) float32, embeddings of view a.
        z_b: (N, D) float32, embeddings of view b.
    """

    picture: Array
    features_a: Tensor
    features_b: Tensor
    z_a: Tensor
    z_b: Tensor


class FixedViews:
    """The views of an evaluation, drawn as in training. Images and random numbers are the same each time.

    They are also the same on any number of ranks that divides eval.batch_size, or the number of images if that is
    smaller. An incomplete batch is left out.

    Args:
        recipe: Recipe of the run, which has the views and the seed.
        train: Training images to draw views of.
        device: Device to compute on.
    """

    def __init__(self, recipe: Recipe, train: ImageSource, device: torch.device) -> None:
        self._recipe = recipe
        self._train = train
        self._device = device

    @property
    def images(self) -> int:
        """Number of images that `two` returns, over all ranks."""
        global_batch_size = self._batch_size(self._train, draws=1) * collectives.world_size()
        return len(self._train) // global_batch_size * global_batch_size

    @torch.no_grad()
    def two(self, backbone: nn.Module, projector: nn.Module) -> TwoViews:
        """Return features and embeddings of both views of every image. Call it on every rank.

        Args:
            backbone: Backbone in evaluation mode, on the device.
            projector: Projector in evaluation mode, on the device.
        """
        loader = self._loader(self._train, draws=1)
        parts, picture = [], None
        for (view_a, view_b), _, _ in loader:
            if picture is None:
                picture = rows_of([view[:_SHOWN_IMAGES] for view in (view_a, view_b)], loader.views)
            features = [backbone(view.to(self._device)).flatten(start_dim=1) for view in (view_a, view_b)]
            parts.append([*features, *(projector(each) for each in features)])
        assert picture is not None
        return TwoViews(picture, *self._gathered(parts))

    @torch.no_grad()
    def many(self, model: BarlowTwins) -> Tensor:
        """Return the embeddings of many views of some images. Call it on every rank.

        Args:
            model: Model in evaluation mode, on the device.

        Returns:
            (n, q, D) float32 on the device, of n images of all ranks, with q = 8 views. n is at most 256, or the number
            of ranks if that is larger. Half of the views of an image are drawn as view a and half as view b.
        """
        # Each rank needs an image.
        most = max(_LIDAR_IMAGES, collectives.world_size())
        loader = self._loader(at_most(self._train, most, self._recipe.run.seed), draws=_LIDAR_DRAWS)
        parts = [
            [torch.stack([model.projector(model.backbone(view.to(self._device))) for view in views], dim=1)]
            for views, _, _ in loader
        ]
        (embeddings,) = self._gathered(parts)
        return embeddings

    def _batch_size(self, source: ImageSource, *, draws: int) -> int:
        # The random numbers are those of the global batch. So this one, not the rank's, is a number of the recipe.
        global_batch_size = min(self._recipe.eval.batch_size // draws, len(source))
        return max(1, global_batch_size // collectives.world_size())

    def _loader(self, source: ImageSource, *, draws: int) -> TwoViewLoader:
        recipe = self._recipe
        return TwoViewLoader(
            source,
            self._batch_size(source, draws=draws),
            views=replace(recipe.preset, views=recipe.preset.views * draws),
            backend=backend_of(recipe.data, self._device),
            seed=recipe.run.seed,
            max_bad_files=recipe.data.max_bad_files,
        )

    def _gathered(self, parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Return the batches of all ranks, one tensor for each column, on the device."""
        mine = [torch.cat(columns).float().cpu() for columns in zip(*parts)]
        ranks = zip(*collectives.all_gather_objects(mine))
        gathered = [torch.cat(columns).to(self._device) for columns in ranks]
        for values in gathered:
            check_features(values)
        return gathered
