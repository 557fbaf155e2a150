"""Compare Barlow Twins here with Lightly's own plain example: same images, backbone, batch and number of steps.

python benchmarks/beside_lightly.py PATH/cifar10 --images 5000 --epochs 20 --seeds 0 1 2

- ours: recipes/pretrain/cifar10_small_cpu.yaml.
- lightly: the model, transform, loss and optimizer of Lightly's example
  (lightly-ai/lightly examples/pytorch/barlowtwins.py at e8d317fc).
- lightly_lars: the same with our optimizer, rates and schedule.

The same commands evaluate all of them: kNN, and a linear classifier on cached features. Each is evaluated with the
normalization of its training.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_record
from torch import nn

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups
from bt_plugin.optim.schedule import lr_scale

RECIPE = "recipes/pretrain/cifar10_small_cpu.yaml"
BATCH_SIZE = 256
# All commands that were started, for the record.
COMMANDS: list[str] = []
OURS = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path, help="folder with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--who", nargs="+", default=["ours", "lightly"], choices=PRETRAIN)
    parser.add_argument("--options", nargs="*", default=[], help="changes to our recipe")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = chosen(arguments.cifar / "train", arguments.images, folder)
        for seed in arguments.seeds:
            for who in arguments.who:
                begun_s = time.perf_counter()
                folder_of_run = folder / f"{who}{seed}"
                subject, view = PRETRAIN[who](train, arguments.epochs, seed, folder_of_run, arguments.options)
                row = {"who": who, "seed": seed, "pretrain_s": time.perf_counter() - begun_s}
                row |= evaluated(subject, train, arguments.cifar / "test", view)
                rows.append(row)
                print(*(f"{key} {value}" for key, value in row.items()), flush=True)
    means = {who: means_of([row for row in rows if row["who"] == who]) for who in arguments.who}
    print(json.dumps(means, indent=1))
    content = {"images": arguments.images, "epochs": arguments.epochs, "options": arguments.options}
    print(write_record("beside_lightly", {**content, "means": means, "runs": rows, "commands": COMMANDS}))


def means_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {key: statistics.mean(row[key] for row in rows) for key in ("knn", "linear", "pretrain_s")}


def chosen(train: Path, images: int, folder: Path) -> Path:
    """Write a list of this number of images, the same number from each class, and return its path."""
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    classes = sorted(path for path in train.iterdir() if path.is_dir())
    for label in classes:
        files = sorted(label.iterdir())
        indices = sorted(rng.choice(len(files), images // len(classes), replace=False))
        lines += [f"{files[index]},{label.name}" for index in indices]
    path = folder / "train.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def pretrain_ours(train: Path, epochs: int, seed: int, folder: Path, options: list[str]) -> tuple[str, list[str]]:
    changes = [f"data.train={train}", "data.val=null", f"optim.epochs={epochs}", f"run.seed={seed}"]
    command = [*OURS, "-m", "bt_plugin", "pretrain", RECIPE, *changes, f"run.output_dir={folder}", *options]
    run(command)
    return str(folder), []


def pretrain_lightly(
    train: Path, epochs: int, seed: int, folder: Path, options: list[str], lars: bool = False
) -> tuple[str, list[str]]:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead
    from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
    from torchvision.models import resnet18

    torch.manual_seed(seed)
    backbone = nn.Sequential(*list(resnet18().children())[:-1])
    head = BarlowTwinsProjectionHead(512, 2048, 2048)
    model = nn.ModuleDict({"backbone": backbone, "projection_head": head})
    transform = BYOLTransform(
        BYOLView1Transform(input_size=32, gaussian_blur=0.0), BYOLView2Transform(input_size=32, gaussian_blur=0.0)
    )
    loader = torch.utils.data.DataLoader(
        Pictures(train, transform), batch_size=BATCH_SIZE, shuffle=True, drop_last=True, num_workers=2
    )
    criterion = BarlowTwinsLoss()
    ours = load_recipe(RECIPE).optim
    groups = parameter_groups(
        model, lr_weights=ours.lr_weights, lr_biases=ours.lr_biases, weight_decay=ours.weight_decay
    )
    optimizer = LARS(groups, lr=0.0) if lars else torch.optim.SGD(model.parameters(), lr=0.06)
    for epoch in range(epochs):
        for step, views in enumerate(loader, epoch * len(loader)):
            for group in optimizer.param_groups if lars else ():
                scale = lr_scale(step, epochs * len(loader), warmup_steps=round(ours.warmup_epochs * len(loader)))
                group["lr"] = group["base_lr"] * scale
            loss = criterion(*(head(backbone(view).flatten(start_dim=1)) for view in views))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    folder.mkdir()
    torch.save(model.state_dict(), folder / "weights.pth")
    return str(folder / "weights.pth"), ["view.size_px=32", "view.resize_px=32", "view.interpolation=bicubic"]


Pretrain = Callable[[Path, int, int, Path, list[str]], tuple[str, list[str]]]
PRETRAIN: dict[str, Pretrain] = {
    "ours": pretrain_ours,
    "lightly": pretrain_lightly,
    "lightly_lars": partial(pretrain_lightly, lars=True),
}


class Pictures(torch.utils.data.Dataset[list[torch.Tensor]]):
    """A data set of the images of a list, as the views of a transform."""

    def __init__(self, listed: Path, transform: Any) -> None:
        self._paths = [line.split(",")[0] for line in listed.read_text().splitlines()[1:]]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        from PIL import Image

        with Image.open(self._paths[index]) as image:
            views: list[torch.Tensor] = self._transform(image.convert("RGB"))
        return views


def evaluated(subject: str, train: Path, val: Path, view: list[str]) -> dict[str, float]:
    """Return the top-1 accuracy of each evaluation, 0 to 1."""
    shares = {}
    for method, options in (("knn", []), ("linear", ["linear.cached=true", "linear.epochs=50"])):
        with tempfile.TemporaryDirectory() as folder:
            changes = [f"data.train={train}", f"data.val={val}", f"run.output_dir={folder}", *view, *options]
            command = [sys.executable, "-m", "bt_plugin", method, subject, *changes]
            run(command)
            (file,) = Path(folder).iterdir()
            shares[method] = json.loads(file.read_text())["top1"]
    return shares


def run(command: list[str]) -> None:
    COMMANDS.append(shlex.join(command))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
