"""Compare training from files. Each contender has its own loader, views, model, loss and optimizer; they alternate.

python benchmarks/train.py --official PATH/barlowtwins --solo-learn PATH/solo-learn [--data PATH]
    [--backbone torchvision/resnet18 --size-px 64 --batch-size 64 --projector 2048 2048 2048] [--bf16]
    [--variants data.backend=dali ...]

The other projects use a DataLoader with one worker per core, and their own transforms. Without --data, the images are
photographs of scikit-image as JPEGs of 500 x 375 px.
"""

from __future__ import annotations

import argparse
import os
import runpy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from loader import lightlys_transform, write_images
from omegaconf import OmegaConf
from peers import Step, add_arguments, lightly, official, options, ours, solo_learn
from record import Record
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from turns import Action, by_turns, compared, ratios_to_ours

from dali_pipelines import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--data", type=Path, help="folder of images, CLASS/*.jpg")
    parser.add_argument("--minutes", type=float, help="stop after this time; what was measured is kept")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="steps per round, after the batches that were prefetched")
    arguments = parser.parse_args()
    record = Record("train")
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or write_images(None, "500x375", Path(folder))
        makers = contenders(arguments, data, folder)
        # The batches that workers and threads prefetched while the others were measured.
        ahead = 2 * cores() + 1
        times_s = by_turns(
            makers,
            arguments.rounds,
            arguments.steps,
            ahead=ahead,
            minutes=arguments.minutes,
            on_round=lambda times_s: record.write({"results": ratios_to_ours(times_s, arguments.batch_size)}),
        )
    compared(times_s, arguments.batch_size)
    print(record.path)


def contenders(arguments: argparse.Namespace, data: Path, folder: str) -> dict[str, Callable[[], Action]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = (arguments.backbone, arguments.projector)
    found: dict[str, Callable[[], Action]] = {}
    for variant in ["", *arguments.variants]:
        changes = [*options(arguments, folder), f"data.train={data}", "data.val=null", *variant.split()]
        found[f"ours, {variant}" if variant else "ours"] = partial(our_training, changes)
    if arguments.official:
        step = partial(official, arguments.official, *model, arguments.batch_size, device, arguments.bf16)
        views = partial(officials_views, arguments.official, arguments.size_px)
        found["official"] = partial(theirs, step, views, data, arguments.batch_size, device)
    step = partial(lightly, *model, device, arguments.bf16)
    views = partial(lightlys_transform, PRESETS["barlow_twins"].changed(size_px=arguments.size_px))
    found["lightly"] = partial(theirs, step, views, data, arguments.batch_size, device)
    if arguments.solo_learn:
        step = partial(solo_learn, arguments.solo_learn, *model, device, arguments.bf16)
        views = partial(solo_learns_views, arguments.solo_learn, arguments.size_px)
        found["solo-learn"] = partial(theirs, step, views, data, arguments.batch_size, device)
    return found


def our_training(changes: list[str]) -> Action:
    loader, step = ours(changes)
    batches = endless(loader)
    return lambda: step(next(batches).views)


def theirs(
    maker: Callable[[], Step], views: Callable[[], Any], data: Path, batch_size: int, device: torch.device
) -> Action:
    step = maker()
    # The epochs are long, because a DataLoader's queue is empty at the end of each.
    dataset = ConcatDataset([ImageFolder(str(data), transform=views())] * 50)
    workers = DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=cores(),
        persistent_workers=True,
        pin_memory=device.type == "cuda",
        multiprocessing_context="fork",
    )
    batches = endless(workers)

    def act() -> object:
        (a, b), _ = next(batches)
        return step((a.to(device, non_blocking=True), b.to(device, non_blocking=True)))

    return act


def officials_views(clone: Path, size_px: int) -> Any:
    views = runpy.run_path(str(clone / "main.py"))["Transform"]()
    for view in (views.transform, views.transform_prime):
        view.transforms[0].size = (size_px, size_px)  # the code has 224 px as a constant
    return views


def solo_learns_views(clone: Path, size_px: int) -> Any:
    module = runpy.run_path(str(clone / "solo/data/pretrain_dataloader.py"))
    views = OmegaConf.load(clone / "scripts/pretrain/imagenet/augmentations/asymmetric.yaml")
    sized = [OmegaConf.merge(view, {"crop_size": size_px}) for view in views]
    transforms = [module["build_transform_pipeline"]("imagenet", view) for view in sized]
    return module["prepare_n_crop_transform"](transforms, [1, 1])


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    return chain.from_iterable(repeat(loader))


def cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
