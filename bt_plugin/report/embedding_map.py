"""Map of the images' features in two dimensions, computed by t-SNE, with a thumbnail of each image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bt_plugin.checkpoints.folder import checkpoints
from bt_plugin.config.section import text_of
from bt_plugin.data.from_recipe import build_eval_loader, open_named
from bt_plugin.errors import RecipeError
from bt_plugin.evaluation.evaluated_model import open_model
from bt_plugin.evaluation.subsets import at_most
from bt_plugin.models.backbone_names import is_own
from bt_plugin.monitoring.view_pixels import pixels_of
from bt_plugin.report.record import RunRecord
from bt_plugin.weights.model_file import has_export

THUMBNAIL_PX = 56
COLUMNS = 32
# t-SNE's authors recommend to keep this many principal components. The rest is mostly noise.
_PRINCIPAL = 50
_PERPLEXITY = 30.0
# A map of fewer images shows nothing.
_LEAST = 8


class EmbeddingMap(NamedTuple):
    """The images of a map as points.

    Args:
        source: Recipe key of the images, data.val or data.train.
        names: Names of the images.
        labels: Label of each image, -1 without one.
        classes: Names of the labels.
        points: Positions (n, 2), 0 to 1.
        sprite: JPEG file of all thumbnails, COLUMNS per row.
    """

    source: str
    names: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    points: NDArray[np.float64]
    sprite: bytes


@torch.no_grad()
def embedding_map(run: RunRecord, most: int, backbone: str | None = None) -> EmbeddingMap:
    """Compute the map of a run's validation images, or of its training images if it has no validation images.

    Args:
        run: A run with an export or a checkpoint.
        most: Largest number of images. If there are more, the run's seed draws them.
        backbone: Name of the function that builds the run's network, if it is one of the user's own.

    Raises:
        WeightsError: If such a name is needed, and not given.
        RecipeError: If there are no weights yet, there are too few images, or the recipe's paths do not exist.
        BadImageError: If more images are unreadable than training would replace.
    """
    recipe = run.recipe
    given = backbone if is_own(recipe.model.backbone) else None
    model = open_model(str(_weights_of(run)), backbone=given)
    device = torch.device("cuda" if torch.cuda.is_available() and recipe.run.device != "cpu" else "cpu")
    key, path = ("data.val", recipe.data.val) if recipe.data.val else ("data.train", recipe.data.train)
    source = at_most(open_named(key, path, recipe.data), most, recipe.run.seed)
    if len(source) < _LEAST:
        raise RecipeError(f"{key}: {text_of(path)} has {len(source)} images. A map needs at least {_LEAST}")
    params = recipe.preset.eval_params()
    loader = build_eval_loader(recipe, source, device, rank=0, world_size=1)
    network = model.backbone.to(device).eval()
    features, labels, names, thumbnails = [], [], [], []
    for images, targets, filenames in loader:
        features.append(network(images.to(device)).flatten(start_dim=1).float().cpu())
        labels += targets.tolist()
        names += filenames
        thumbnails += [Image.fromarray(pixels_of(image, params)) for image in images]
    points = in_two_dimensions(torch.cat(features).numpy(), recipe.run.seed)
    return EmbeddingMap(key, names, labels, tuple(source.classes), points, sprite(thumbnails))


def in_two_dimensions(features: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """Project features (n, F) to points (n, 2) from 0 to 1. Similar features get close points."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = len(features)
    principal = PCA(min(_PRINCIPAL, *features.shape), random_state=seed).fit_transform(features)
    perplexity = min(_PERPLEXITY, (n - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(principal)
    lowest, highest = points.min(axis=0), points.max(axis=0)
    scaled: NDArray[np.float64] = (points - lowest) / np.maximum(highest - lowest, 1e-12)
    return scaled


def sprite(thumbnails: list[Image.Image]) -> bytes:
    """Return one JPEG file with all thumbnails, row by row."""
    size = (COLUMNS * THUMBNAIL_PX, -(-len(thumbnails) // COLUMNS) * THUMBNAIL_PX)
    sheet = Image.new("RGB", size)
    for number, image in enumerate(thumbnails):
        row, column = divmod(number, COLUMNS)
        shown = image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC)
        sheet.paste(shown, (column * THUMBNAIL_PX, row * THUMBNAIL_PX))
    buffer = io.BytesIO()
    sheet.save(buffer, "jpeg", quality=75)
    return buffer.getvalue()


def _weights_of(run: RunRecord) -> Path:
    if has_export(run.folder):
        return run.folder
    found = checkpoints(run.folder)
    if not found:
        raise RecipeError(f"{run.folder}: has neither an export nor a checkpoint yet. Wait for the first checkpoint")
    return found[-1]
