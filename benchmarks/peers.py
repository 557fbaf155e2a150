"""Training steps of Barlow Twins: ours, and those of other projects from their own code.

- official: the model, loss and optimizer of a clone of facebookresearch/barlowtwins (8e8d284).
- solo-learn: the loss and optimizer of a clone of vturrisi/solo-learn (9187ea3).
- lightly: the parts of the installed package, combined as in its ImageNet benchmark
  (benchmarks/imagenet/resnet50/barlowtwins.py at e8d317fc), but without the online classifier.
"""

from __future__ import annotations

import argparse
import runpy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.data.from_recipe import build_loader, open_sources
from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.from_recipe import build_model
from bt_plugin.runtime.accelerator import build_accelerator
from bt_plugin.training.step import TrainStep
from dali_pipelines.loaders import Batch, TwoViewLoader

LAMBDA = 5.1e-3
LR = 0.2
WEIGHT_DECAY = 1e-6

Views = tuple[Tensor, Tensor]
Step = Callable[[Views], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the contenders: the paths of their code, and the sizes of model and batch."""
    parser.add_argument("--official", type=Path)
    parser.add_argument("--solo-learn", type=Path)
    parser.add_argument("--backbone", default="torchvision/resnet18")
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--projector", type=int, nargs="+", default=[2048, 2048, 2048])
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--variants", nargs="*", default=[])


def options(arguments: argparse.Namespace, folder: str) -> list[str]:
    """Return the changes to the quickstart's recipe: the sizes of the others, and no evaluation during training."""
    return [
        f"model.backbone={arguments.backbone}",
        f"model.projector={arguments.projector}",
        f"views.both.size_px={arguments.size_px}",
        f"loss.lambda_param={LAMBDA}",
        f"optim.global_batch_size={arguments.batch_size}",
        f"run.mixed_precision={'bf16' if arguments.bf16 else 'no'}",
        f"run.output_dir={folder}/run",
        "eval.every_epochs=null",
    ]


def ours(changes: list[str]) -> tuple[TwoViewLoader, Step]:
    """Return the loader of the quickstart with these changes, and its whole step with all its checks."""
    recipe = load_recipe("recipes/pretrain/quickstart.yaml", changes)
    accelerator = build_accelerator(recipe.run)
    source, _ = open_sources(recipe)
    train_step = TrainStep(recipe, accelerator, build_model(recipe))

    def step(views: Views) -> object:
        return train_step([Batch(views, torch.zeros(len(views[0])), [])])

    return build_loader(recipe, source, accelerator), step


def official(clone: Path, backbone: str, widths: list[int], batch_size: int, device: torch.device, bf16: bool) -> Step:
    # The official loss calls all_reduce even on one rank.
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    main = runpy.run_path(str(clone / "main.py"))
    arguments = argparse.Namespace(projector="-".join(map(str, widths)), batch_size=batch_size, lambd=LAMBDA)
    model = main["BarlowTwins"](arguments)
    if backbone != "torchvision/resnet50":  # the only one it knows
        model.backbone, feature_dim = build_backbone(backbone)
        model.projector[0] = nn.Linear(feature_dim, widths[0], bias=False)
    model.to(device)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim != 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1]},
    ]
    filters = {"weight_decay_filter": True, "lars_adaptation_filter": True}
    optimizer = main["LARS"](groups, lr=LR, weight_decay=WEIGHT_DECAY, **filters)
    return _step(model, optimizer, device, bf16)


def lightly(backbone: str, widths: list[int], device: torch.device, bf16: bool) -> Step:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead
    from lightly.models.utils import get_weight_decay_parameters
    from lightly.utils.lars import LARS

    network, feature_dim = build_backbone(backbone)
    model = nn.Sequential(network, BarlowTwinsProjectionHead(feature_dim, widths[0], widths[-1])).to(device)
    decayed, others = get_weight_decay_parameters([model])
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    criterion = BarlowTwinsLoss(lambda_param=5e-3)

    def loss(view_a: Tensor, view_b: Tensor) -> Tensor:
        # Both views in one pass, as in Lightly's benchmark.
        value: Tensor = criterion(*model(torch.cat((view_a, view_b))).chunk(2))
        return value

    return _step(loss, LARS(groups, lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY), device, bf16)


def solo_learn(clone: Path, backbone: str, widths: list[int], device: torch.device, bf16: bool) -> Step:
    objective = runpy.run_path(str(clone / "solo/losses/barlow.py"))["barlow_loss_func"]
    lars = runpy.run_path(str(clone / "solo/utils/lars.py"))["LARS"]
    network, feature_dim = build_backbone(backbone)
    layers: list[nn.Module] = []
    for inputs, outputs in zip([feature_dim, *widths[:-2]], widths[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    model = nn.Sequential(network, *layers, nn.Linear(widths[-2], widths[-1])).to(device)
    optimizer = lars(model.parameters(), lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY, exclude_bias_n_norm=True)
    return _step(lambda view_a, view_b: objective(model(view_a), model(view_b)), optimizer, device, bf16)


def _step(loss: Callable[..., Tensor], optimizer: torch.optim.Optimizer, device: torch.device, bf16: bool) -> Step:
    # The official main.py sets it and so does our accelerator. Every contender shall have it.
    torch.backends.cudnn.benchmark = True

    def step(views: Views) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = loss(*views)
        value.backward()
        optimizer.step()

    return step
