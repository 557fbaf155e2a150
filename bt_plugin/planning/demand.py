"""What a run demands from loader, disk and storage."""

from __future__ import annotations

from bt_plugin.checkpoints.size import checkpoint_bytes, kept_checkpoints
from bt_plugin.config.recipe import Recipe
from bt_plugin.planning.quantity import Quantity, quantity
from bt_plugin.planning.traced_step import TracedStep
from dali_pipelines.storage.urls import is_url

_DAY_S = 86_400
# One core of the native backend, for a JPEG of 500 x 375 px and two views of 224 px.
_DECODE_S, _DECODED_PIXELS = 0.88e-3, 500 * 375
_VIEWS_S, _VIEW_PIXELS = 1.88e-3, 2 * 224**2
LOADER_RECORD = "2026-11-23_loader_stages.json"
# An image of ImageNet has 110 kB on average: 1,281,167 images in 138 GB (image-net.org).
_TYPICAL_BYTES, _TYPICAL_PIXELS = 110e3, 500 * 375


def loader_demand(recipe: Recipe, images_per_s: Quantity, *, image_bytes: float | None) -> list[Quantity]:
    """Return what the loaders of all ranks must deliver together.

    Args:
        recipe: Recipe of the run.
        images_per_s: Images per second over all ranks.
        image_bytes: Mean bytes of a stored image, None if the images are not here.
    """
    size = _TYPICAL_BYTES if image_bytes is None else image_bytes
    kind, source = ("computed", "images of data.train") if image_bytes else ("assumed", "110 kB, the mean of ImageNet")
    view_pixels = sum(view.size_px**2 for view in recipe.preset.views)
    core_s = _DECODE_S * _TYPICAL_PIXELS / _DECODED_PIXELS + _VIEWS_S * view_pixels / _VIEW_PIXELS
    low, high = images_per_s.low, images_per_s.high
    found = [
        quantity("read", low * size / 1e6, "MB/s", high=high * size / 1e6, kind=kind, source=source),  # type: ignore[arg-type]
        quantity(
            "cores of the native backend",
            low * core_s,
            "cores",
            high=high * core_s,
            kind="measured",
            source=f"{1e3 * core_s:.2f} ms of a core for each JPEG of 500 x 375 px, by {LOADER_RECORD}",
        ),
    ]
    paths = (recipe.data.train,) if isinstance(recipe.data.train, str) else recipe.data.train
    if any(is_url(path) for path in paths):
        day_gb = size * _DAY_S / 1e9
        found.append(
            quantity(
                "from the storage in a day, if nothing is cached",
                low * day_gb,
                "GB",
                high=high * day_gb,
                kind=kind,  # type: ignore[arg-type]
                source=source,
            )
        )
    return found


def disk_demand(recipe: Recipe, traced: TracedStep) -> list[Quantity]:
    """Return what the run writes.

    Args:
        recipe: Recipe of the run.
        traced: Its traced step.
    """
    each_gib = checkpoint_bytes(recipe, traced.stored_bytes) / 2**30
    kept = kept_checkpoints(recipe)
    source = "weights and the optimizer's state in float32"
    return [
        quantity("a checkpoint", each_gib, "GiB", kind="computed", source=source),
        quantity(
            f"checkpoints on the disk, {kept} kept and one that is written",
            (kept + 1) * each_gib,
            "GiB",
            kind="computed",
            source=source,
        ),
    ]
