"""Evaluate a run during training, with and without labels. The evaluation does not affect the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from bt_plugin.checkpoints.state import with_weights_of
from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import build_eval_loader
from bt_plugin.evaluation.accuracy import Accuracy
from bt_plugin.evaluation.correlation import correlation_report, cross_correlation
from bt_plugin.evaluation.features import extract_features
from bt_plugin.evaluation.fixed_views import FixedViews, TwoViews
from bt_plugin.evaluation.knn import knn_accuracy
from bt_plugin.evaluation.online_probe import OnlineProbe
from bt_plugin.evaluation.retrieval import view_retrieval
from bt_plugin.evaluation.spectrum import effective_rank, lidar, rankme, singular_values
from bt_plugin.evaluation.subsets import at_most
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.monitoring.snapshot import BIN_EDGES, SIDE, Array, CorrelationSnapshot
from bt_plugin.runtime import collectives
from dali_pipelines.sources import ImageSource


class Look(NamedTuple):
    """The result of one evaluation during a run.

    Args:
        values: Metrics by name.
        snapshot: Data of the figures.
        views: Image of the first views that were evaluated.
    """

    values: dict[str, float]
    snapshot: CorrelationSnapshot
    views: Array


class OnlineEvaluation:
    """An evaluation that uses the same images, and the same two views of them, each time.

    Args:
        recipe: Recipe of the run.
        build: Function that builds the run's model.
        train: Training images. A subset of them is the bank of kNN and is embedded in two views.
        val: Validation images to classify. They are used if they and the training images have labels.
        device: Device to compute on.
        probe: Online linear probe of the run, or None.
    """

    def __init__(
        self,
        recipe: Recipe,
        build: Callable[[], BarlowTwins],
        train: ImageSource,
        *,
        val: ImageSource | None,
        device: torch.device,
        probe: OnlineProbe | None,
    ) -> None:
        self._recipe = recipe
        self._build = build
        self._device = device
        self._probe = probe
        # Each rank needs an image.
        most, seed = max(recipe.eval.online_images, collectives.world_size()), recipe.run.seed
        self._train = at_most(train, most, seed)
        self._views = FixedViews(recipe, self._train, device)
        labelled = val is not None and val.has_labels and train.has_labels
        self._val = at_most(val, most, seed) if val is not None and labelled else None

    @property
    def retrieval_images(self) -> int:
        """Number of images among which view retrieval searches."""
        return self._views.images

    @torch.no_grad()
    def run(self, model: nn.Module) -> Look:
        """Evaluate the model as it is now. Call it on every rank.

        Args:
            model: Model in training, wrapped by the Accelerator. It is copied and not changed.

        Returns:
            A Look. Its values are:

            - knn_top1 and probe_top1, fractions of 1, if there are labels.
            - view_retrieval_top1, a fraction of 1: how often the other view of an image is the nearest one among those
              of view_retrieval_images training images.
            - rankme, lidar and std_of_l2_normalized of the embeddings of these images.
            - Mean and deviation of the diagonal and of the other elements of C, for two views of these images.
            - effective_rank of their features.
        """
        from lightly.utils.debug import std_of_l2_normalized

        plain = with_weights_of(model, self._build()).to(self._device).eval()
        values = self._accuracies(plain.backbone) if self._val is not None else {}
        views = self._views.two(plain.backbone, plain.projector)
        spectrum, c = singular_values(views.z_a), cross_correlation(views.z_a, views.z_b)
        values |= {
            "view_retrieval_images": self.retrieval_images,
            **self._signs(plain, views, spectrum),
            "std_of_l2_normalized": float(std_of_l2_normalized(views.z_a)),
            **correlation_report(c),
        }
        return Look(values, snapshot_of(c, spectrum), views.picture)

    def retrieval(self, network: nn.Module) -> dict[str, float]:
        """Return view_retrieval_top1 of a network. Call it on every rank.

        Args:
            network: Network from images to features, in evaluation mode, on the device.
        """
        return _retrieval(self._views.two(network, nn.Identity()))

    def signs(self, model: BarlowTwins) -> dict[str, float]:
        """Return view_retrieval_top1, rankme, effective_rank and lidar of a model. Call it on every rank.

        Args:
            model: Model in evaluation mode, on the device. It is not in training.
        """
        views = self._views.two(model.backbone, model.projector)
        return self._signs(model, views, singular_values(views.z_a))

    def _signs(self, model: BarlowTwins, views: TwoViews, spectrum: Tensor) -> dict[str, float]:
        return {
            **_retrieval(views),
            "rankme": rankme(spectrum),
            "effective_rank": effective_rank(views.features_a),
            "lidar": lidar(self._views.many(model)),
        }

    def _accuracies(self, embed: Callable[[Tensor], Tensor]) -> dict[str, float]:
        recipe = self._recipe
        known, queries = (
            extract_features(embed, build_eval_loader(recipe, source, self._device), self._device).to(self._device)
            for source in (self._train, self._val)
            if source is not None
        )
        knn = knn_accuracy(known, queries, k=recipe.eval.knn_k, temperature=recipe.eval.knn_temperature)
        values = {"knn_top1": knn.top1 / knn.n}
        if self._probe:
            probed = Accuracy.of(self._probe.ranking(queries.values), queries.targets)
            values["probe_top1"] = probed.top1 / probed.n
        return values


def _retrieval(views: TwoViews) -> dict[str, float]:
    return {"view_retrieval_top1": view_retrieval(views.features_a, views.features_b)}


def snapshot_of(c: Tensor, spectrum: Tensor) -> CorrelationSnapshot:
    """Return the data of the figures, reduced to what is drawn.

    Args:
        c: Cross-correlation matrix.
        spectrum: Singular values of the embeddings.

    Shape:
        - c: (D, D) float32.
        - spectrum: (min(N, D),) float32, in descending order.
    """
    c, spectrum = c.cpu(), spectrum.cpu()
    side = min(SIDE, len(c))
    diagonal, everywhere = (
        torch.histc(part.clamp(-1, 1), len(BIN_EDGES) - 1, BIN_EDGES[0], BIN_EDGES[-1]) for part in (c.diagonal(), c)
    )
    return CorrelationSnapshot(
        c_whole=adaptive_avg_pool2d(c.square()[None], side)[0].sqrt().numpy(),
        c_first=c[:side, :side].clone().numpy(),
        diagonal_counts=diagonal.numpy(),
        off_diagonal_counts=(everywhere - diagonal).numpy(),
        spectrum=spectrum.numpy(),
    )
