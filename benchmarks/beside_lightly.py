"""Compare Barlow Twins here with a plain script in Lightly's style, in which one thing at a time is Lightly's.

python benchmarks/beside_lightly.py PATH/cifar10 --images 5000 --epochs 10 --seeds 0 1 2
python benchmarks/beside_lightly.py PATH/cifar10 --epochs 4 --batch 16 --who script per_rank

All have the same images, network, batch, epochs, and initial seeds:

- ours: recipes/pretrain/cifar10_small_cpu.yaml.
- script: a plain loop with the loss, views, projector, optimizer and schedule of that recipe. Its images have another
  order, and PIL computes its views.
- loss, views, one_pass, projector, optimizer: the script, in which this one thing is Lightly's. With one_pass
  BatchNorm sees both views together, as in Lightly's ImageNet benchmark. The optimizer is SGD at 0.06 without a
  schedule, as in Lightly's example.
- lightly: all of these but one_pass, which is Lightly's example as it is
  (lightly-ai/lightly examples/pytorch/barlowtwins.py at e8d317fc).
- per_rank: the script, with the mean of the losses of both halves of the batch. That is what two ranks train by if each
  has a loss of its own, as with Lightly's loss by default. BatchNorm in the network still sees the whole batch.

The same commands evaluate all of them: kNN, and a linear classifier on cached features. Each is evaluated with the
normalization of its training. The result of a run is kept in runs/beside_lightly, so that the same command resumes.
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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from record import write_record
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor, nn

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.loss.barlow_twins import BarlowTwinsLoss
from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.barlow_twins import build_projector
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups
from bt_plugin.optim.schedule import lr_scale
from dali_pipelines.pil.transform import BarlowTwinsTransform

RECIPE = "recipes/pretrain/cifar10_small_cpu.yaml"
# All commands that were started, for the record.
COMMANDS: list[str] = []
OURS = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path, help="folder with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256, help="images of a step; the rates are scaled with them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--who", nargs="+", choices=WHO, default=[who for who in WHO if who != "per_rank"])
    arguments = parser.parse_args()
    folder = Path("runs/beside_lightly") / f"{arguments.images}_{arguments.epochs}_{arguments.batch}"
    folder.mkdir(parents=True, exist_ok=True)
    cifar = arguments.cifar.resolve()
    train = chosen(cifar / "train", arguments.images, folder)
    rows = [
        row_of(who, seed, train, cifar / "test", folder, epochs=arguments.epochs, batch=arguments.batch)
        for seed in arguments.seeds
        for who in arguments.who
    ]
    means = {who: means_of([row for row in rows if row["who"] == who]) for who in arguments.who}
    differences = {who: differences_of(rows, who, "script") for who in arguments.who if who != "script"}
    print(json.dumps({"means": means, "differences from script, with 95 % intervals": differences}, indent=1))
    content = {key: getattr(arguments, key) for key in ("images", "epochs", "batch")}
    content |= {"means": means, "differences": differences}
    print(write_record("beside_lightly", {**content, "runs": rows, "commands": COMMANDS}))


def row_of(who: str, seed: int, train: Path, val: Path, folder: Path, *, epochs: int, batch: int) -> dict[str, Any]:
    """Pretrain and evaluate one contender, unless its result is kept already. Return the result."""
    kept = folder / f"{who}_{seed}.json"
    if not kept.exists():
        begun_s = time.perf_counter()
        pretrain = pretrain_ours if who == "ours" else partial(pretrain_by_script, parts_of(who))
        subject, view = pretrain(train, epochs, batch, seed, folder / f"{who}_{seed}")
        row = {"who": who, "seed": seed, "pretrain_s": time.perf_counter() - begun_s}
        kept.write_text(json.dumps(row | evaluated(subject, train, val, view)))
    result: dict[str, Any] = json.loads(kept.read_text())
    print(*(f"{key} {value}" for key, value in result.items()), flush=True)
    return result


def means_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {key: statistics.mean(row[key] for row in rows) for key in ("knn", "linear", "pretrain_s")}


def differences_of(rows: list[dict[str, Any]], who: str, other: str) -> dict[str, tuple[float, float, float]]:
    """Return the mean difference of two contenders over the seeds, with its 95 % interval by Student's t."""
    found = {}
    for key in ("knn", "linear"):
        of = {(row["who"], row["seed"]): row[key] for row in rows}
        gains = [value - of[other, seed] for (name, seed), value in of.items() if name == who and (other, seed) in of]
        if len(gains) > 1:
            mean, half = statistics.mean(gains), stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
            found[key] = (mean, float(mean - half), float(mean + half))
    return found


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


def pretrain_ours(train: Path, epochs: int, batch: int, seed: int, folder: Path) -> tuple[str, list[str]]:
    changes = [f"data.train={train}", "data.val=null", f"optim.epochs={epochs}", f"run.seed={seed}"]
    changes.append(f"optim.global_batch_size={batch}")
    run([*OURS, "-m", "bt_plugin", "pretrain", RECIPE, *changes, f"run.output_dir={folder}"])
    return str(folder), []


class Parts(NamedTuple):
    """Which parts of the script are Lightly's."""

    loss: bool = False
    views: bool = False
    one_pass: bool = False
    projector: bool = False
    optimizer: bool = False
    per_rank: bool = False


WHO = ("ours", "script", *Parts._fields, "lightly")


def parts_of(who: str) -> Parts:
    if who == "lightly":
        return Parts(loss=True, views=True, projector=True, optimizer=True)
    return Parts() if who == "script" else Parts()._replace(**{who: True})


def pretrain_by_script(
    parts: Parts, train: Path, epochs: int, batch: int, seed: int, folder: Path
) -> tuple[str, list[str]]:
    from lightly.loss import BarlowTwinsLoss as LightlyLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    recipe = load_recipe(RECIPE)
    torch.manual_seed(seed)
    network, feature_dim = build_backbone(recipe.model.backbone, stem=recipe.model.stem)
    widths, lambda_param = recipe.model.projector, recipe.loss.lambda_param
    head = BarlowTwinsProjectionHead(feature_dim, widths[0], widths[-1])
    model = nn.ModuleDict(
        {"backbone": network, "projector": head if parts.projector else build_projector(feature_dim, widths)}
    )
    criterion = (LightlyLoss if parts.loss else BarlowTwinsLoss)(lambda_param=lambda_param)
    loader = torch.utils.data.DataLoader(
        Pictures(train, lightly_views() if parts.views else BarlowTwinsTransform(recipe.preset)),
        batch_size=batch, shuffle=True, drop_last=True, num_workers=2,
    )  # fmt: skip
    groups = parameter_groups(
        model,
        lr_weights=recipe.optim.lr_weights,
        lr_biases=recipe.optim.lr_biases,
        weight_decay=recipe.optim.weight_decay,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06) if parts.optimizer else LARS(groups, lr=0.0)
    steps, warmup_steps = epochs * len(loader), round(recipe.optim.warmup_epochs * len(loader))
    for epoch in range(epochs):
        for step, (view_a, view_b) in enumerate(loader, epoch * len(loader)):
            for group in () if parts.optimizer else optimizer.param_groups:
                group["lr"] = batch / 256 * group["base_lr"] * lr_scale(step, steps, warmup_steps=warmup_steps)
            optimizer.zero_grad()
            z_a, z_b = embeddings(model, view_a, view_b, one_pass=parts.one_pass)
            ranks = 2 if parts.per_rank else 1
            losses = [criterion(a, b) for a, b in zip(z_a.chunk(ranks), z_b.chunk(ranks))]
            torch.stack(losses).mean().backward()
            optimizer.step()
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    view = ["view.size_px=32", "view.resize_px=32", "view.interpolation=bicubic", "--backbone", recipe.model.backbone]
    if not parts.views:
        mean_and_std = recipe.preset.eval_params()
        view += [f"view.mean={list(mean_and_std.mean)}", f"view.std={list(mean_and_std.std)}"]
    return str(folder / "weights.safetensors"), view


def embeddings(model: nn.ModuleDict, view_a: Tensor, view_b: Tensor, *, one_pass: bool) -> Sequence[Tensor]:
    def embed(views: Tensor) -> Tensor:
        z: Tensor = model["projector"](model["backbone"](views))
        return z

    return embed(torch.cat((view_a, view_b))).chunk(2) if one_pass else (embed(view_a), embed(view_b))


def lightly_views() -> Any:
    """Return the transform of Lightly's example at 32 px, with the crops of the recipe, so that the task is as hard."""
    from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform

    options = {"input_size": 32, "gaussian_blur": 0.0, "min_scale": load_recipe(RECIPE).preset.views[0].crop_scale[0]}
    return BYOLTransform(BYOLView1Transform(**options), BYOLView2Transform(**options))


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
