"""Where a run puts images: its features in two dimensions, by t-SNE, with a thumbnail of each."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bt_plugin.checkpoints.folder import checkpoints
from bt_plugin.data.from_recipe import build_eval_loader, open_named
from bt_plugin.errors import RecipeError
from bt_plugin.evaluate.evaluated_model import open_model
from bt_plugin.evaluate.subsets import at_most
from bt_plugin.monitoring.view_pixels import pixels_of
from bt_plugin.report.record import RunRecord
from bt_plugin.weights.model_file import has_export

THUMBNAIL_PX = 56
COLUMNS = 32
# Of the features before t-SNE, as its authors recommend; the rest is mostly noise.
_PRINCIPAL = 50
_PERPLEXITY = 30.0
# Fewer images are no map.
_LEAST = 8


class EmbeddingMap(NamedTuple):
    """Images as points.

    Args:
        source: The key of the recipe that the images are of.
        names: Of the images.
        labels: Of each; -1 where there are none.
        classes: Names of the labels.
        points: (n, 2), from 0 to 1.
        sprite: A JPEG file of all thumbnails, COLUMNS in a row.
    """

    source: str
    names: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    points: NDArray[np.float64]
    sprite: bytes


@torch.no_grad()
def embedding_map(run: RunRecord, most: int) -> EmbeddingMap:
    """The map of a run's validation images; of training images where it has no others.

    Args:
        run: Exported, or with a checkpoint.
        most: Images, drawn by the run's seed where there are more.

    Raises:
        RecipeError: If there are no weights yet, too few images, or they are not where the recipe says.
        BadImageError: If more cannot be read than training replaces.
    """
    recipe = run.recipe
    model = open_model(str(_weights_of(run)))
    device = torch.device("cuda" if torch.cuda.is_available() and recipe.run.device != "cpu" else "cpu")
    key, path = ("data.val", recipe.data.val) if recipe.data.val else ("data.train", recipe.data.train)
    source = at_most(open_named(key, path), most, recipe.run.seed)
    if len(source) < _LEAST:
        raise RecipeError(f"{key}: {path} has {len(source)} images, too few for a map")
    params = recipe.preset.eval_params()
    loader = build_eval_loader(recipe, source, device, rank=0, world_size=1)
    backbone = model.backbone.to(device).eval()
    features, labels, names, thumbnails = [], [], [], []
    for images, targets, filenames in loader:
        features.append(backbone(images.to(device)).flatten(start_dim=1).float().cpu())
        labels += targets.tolist()
        names += filenames
        thumbnails += [Image.fromarray(pixels_of(image, params)) for image in images]
    points = in_two_dimensions(torch.cat(features).numpy(), recipe.run.seed)
    return EmbeddingMap(key, names, labels, tuple(source.classes), points, sprite(thumbnails))


def in_two_dimensions(features: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """(n, F) features as (n, 2) points from 0 to 1, near ones near."""
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
    """One JPEG of them all, row by row."""
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
        raise RecipeError(f"{run.folder}: has neither an export nor a checkpoint yet")
    return found[-1]
