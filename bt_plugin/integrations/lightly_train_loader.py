"""A TwoViewLoader for LightlyTrain. Only register() may import this module, because it imports LightlyTrain."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bt_plugin.integrations.lightly_train_method import BarlowTwinsTransform, BarlowTwinsTransformArgs
from dali_pipelines.backend import Backend
from dali_pipelines.loaders import TwoViewLoader
from dali_pipelines.sources import FileSource
from dali_pipelines.views.params import Preset, ViewParams


class LightlyTrainLoader:
    """A loader that yields TwoViewLoader's batches as LightlyTrain's dictionaries.

    Args:
        loader: Loader of the batches. Its state is this loader's state.
    """

    def __init__(self, loader: TwoViewLoader) -> None:
        self._loader = loader
        self.state_dict = loader.state_dict
        self.load_state_dict = loader.load_state_dict

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for views, _, filenames in self._loader:
            yield {"views": list(views), "filename": filenames}


def two_view_loader(
    inner: Callable[..., Any],
    dataset: Any,
    batch_size: int,
    num_workers: int,
    loader_args: dict[str, Any] | None,
) -> Any:
    """Return a TwoViewLoader of a dataset if its transform is Barlow Twins', otherwise LightlyTrain's loader.

    Args:
        inner: LightlyTrain's own function.
        dataset: Dataset of image files.
        batch_size: Images per batch on one rank.
        num_workers: Number of threads that compute the views.
        loader_args: Arguments of a DataLoader.

    Raises:
        ValueError: If TwoViewLoader cannot compute the transform, or loader_args are given.
    """
    if not isinstance(dataset.transform, BarlowTwinsTransform):
        return inner(dataset=dataset, batch_size=batch_size, num_workers=num_workers, loader_args=loader_args)
    if loader_args:
        raise ValueError(
            f"loader_args: {loader_args} are for a DataLoader. Leave them out, or call register(dali=False)"
        )
    names = [file if isinstance(file, str) else file["filenames"] for file in dataset.image_filenames]
    source = FileSource(Path(dataset.image_dir or "."), names, labels=None, classes=())
    # The seed must be the same on all ranks. Lightning sets this variable for the ranks that it starts.
    seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
    views = preset(dataset.transform.transform_args)
    backend = Backend(num_threads=num_workers or None)
    return LightlyTrainLoader(TwoViewLoader(source, batch_size, views, backend=backend, seed=seed))


def preset(args: BarlowTwinsTransformArgs) -> Preset:
    """Return the views that transform_args describe.

    Raises:
        ValueError: If TwoViewLoader cannot compute them. The message names the argument.
    """
    crop: Any = args.random_resize
    jitter, normalize = args.color_jitter, args.normalize
    for name, is_possible, rule in (
        ("image_size", args.image_size[0] == args.image_size[1], "a square"),
        ("random_resize", crop is not None, "a random crop"),
        ("random_rotation", args.random_rotation is None, "None"),
        ("channel_drop", args.channel_drop is None, "None"),
    ):
        if not is_possible:
            raise ValueError(
                f"transform_args.{name}: {getattr(args, name)} is not allowed with dali=True; it must be {rule}."
                " Or call register(dali=False)"
            )
    common = ViewParams(
        size_px=args.image_size[0],
        crop_scale=(crop.min_scale, crop.max_scale),
        crop_ratio=(getattr(crop, "min_ratio", 3 / 4), getattr(crop, "max_ratio", 4 / 3)),
        flip_p=args.random_flip.horizontal_prob if args.random_flip else 0.0,
        flip_v_p=args.random_flip.vertical_prob if args.random_flip else 0.0,
        jitter_p=jitter.prob if jitter else 0.0,
        **{name: jitter.strength * getattr(jitter, name) for name in _JITTER} if jitter else {},
        gray_p=args.random_gray_scale or 0.0,
        channels=args.num_channels,
        mean=normalize.mean,
        std=normalize.std,
    )
    ends = ((args.gaussian_blur, args.solarize), (args.global_view_1.gaussian_blur, args.global_view_1.solarize))
    return Preset(tuple(_ended(common, blur, solarize) for blur, solarize in ends))


_JITTER = ("brightness", "contrast", "saturation", "hue")


def _ended(view: ViewParams, blur: Any, solarize: Any) -> ViewParams:
    if solarize is not None and solarize.threshold != 0.5:
        raise ValueError(
            f"transform_args: a threshold of {solarize.threshold} is not allowed with dali=True; it must be 0.5"
        )
    if blur:
        view = replace(view, blur_sigma_px=tuple(blur.sigmas))
    return replace(view, blur_p=blur.prob if blur else 0.0, solarize_p=solarize.prob if solarize else 0.0)
