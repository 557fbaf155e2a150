"""Measure the effect of the choices of Lightly, the official code and solo-learn: the numbers of docs/coming_from.md.

python benchmarks/differences.py

The embeddings are those of an untrained ResNet-18 for real views of the demo data. Each rule is written out in this
file, and compared in float64.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from PIL import Image
from record import write_record
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from bt_plugin import BarlowTwins, BarlowTwinsLoss, build_backbone, build_projector, lr_scale
from dali_pipelines import PRESETS, Backend, TwoViewLoader
from dali_pipelines.views.crop_windows import crop_window
from dali_pipelines.views.draws import draw_views

DATA = "data/demo"
D = 512
LAMBDA = 5.1e-3


def main() -> None:
    subprocess.run([sys.executable, "-m", "bt_plugin", "demo-data", DATA], check=True)
    torch.manual_seed(0)
    loader = TwoViewLoader(
        f"{DATA}/train", 256, PRESETS["barlow_twins"].changed(size_px=64), backend=Backend(device="cpu")
    )
    views = next(iter(loader)).views
    backbone = build_backbone("torchvision/resnet18", zero_init_residual=False)
    model = BarlowTwins(backbone.module, build_projector(backbone.feature_dim, (D, D)))
    with torch.no_grad():
        z = [part.double() for part in model(*views)]
    results = {
        "normalization of each rank": normalisation(z),
        "gradient of a sum that autograd does not see": gradient_scale(z),
        "bias of the last layer": head_bias(z),
        "views concatenated": concatenated(model, [view[:128] for view in views]),
        "LARS": lars(model, [view[:128] for view in views]),
        "schedule": schedule(),
        "interpolation of the crop": interpolation(loader),
        "lambda 5e-3": lambda_share(z),
    }
    for name, values in results.items():
        print(f"{name}:", *(f"\n  {key}: {value:.4g}" for key, value in values.items()))
    print(write_record("differences", results))


def correlation(z_a: Tensor, z_b: Tensor) -> Tensor:
    a, b = (functional.batch_norm(z, None, None, training=True) for z in (z_a, z_b))
    return a.T @ b / len(a)


def objective(c: Tensor) -> Tensor:
    diagonal = c.diagonal()
    return (diagonal - 1).square().sum() + LAMBDA * (c.square().sum() - diagonal.square().sum())


def value_and_gradient(loss: Callable[..., Tensor], z: list[Tensor]) -> tuple[float, Tensor]:
    leaves = [part.detach().clone().requires_grad_() for part in z]
    value = loss(*leaves)
    return value.item(), torch.cat(torch.autograd.grad(value, leaves)).flatten()


def cosine(a: Tensor, b: Tensor) -> float:
    return functional.cosine_similarity(a.double(), b.double(), dim=0).item()


def loss_of_ranks(parts: list[Tensor], seen: bool = True) -> Tensor:
    """Return the mean of the ranks' losses, each computed from the whole C.

    Args:
        parts: Addend of each rank to C.
        seen: Whether autograd sees the sum over the ranks. Otherwise a rank's loss has a graph only to its own addend.
    """
    whole = torch.stack(parts).sum(0)
    if seen:
        return objective(whole)
    return torch.stack([objective((whole - part).detach() + part) for part in parts]).mean()


def standardised_by_each_rank(z_a: Tensor, z_b: Tensor) -> list[Tensor]:
    return [correlation(*own) / 2 for own in zip(z_a.chunk(2), z_b.chunk(2))]


def normalisation(z: list[Tensor]) -> dict[str, float]:
    """Measure Lightly's and solo-learn's rule: each of two ranks standardizes its own samples.

    With solo-learn, autograd also does not see the sum over the ranks.
    """
    found = {}
    for n in (8, 32, 128):
        both = [part[: 2 * n] for part in z]
        value, gradient = value_and_gradient(lambda a, b: objective(correlation(a, b)), both)
        ours, _ = value_and_gradient(BarlowTwinsLoss(LAMBDA), both)
        assert abs(ours / value - 1) < 1e-9, "the rule in this file equals BarlowTwinsLoss"
        theirs, their_gradient = value_and_gradient(lambda *z: loss_of_ranks(standardised_by_each_rank(*z)), both)
        found[f"loss, {n} samples a rank, theirs / ours - 1"] = theirs / value - 1
        found[f"gradient, {n} samples a rank, cosine"] = cosine(gradient, their_gradient)
        found[f"gradient, {n} samples a rank, size theirs / ours"] = (their_gradient.norm() / gradient.norm()).item()
        _, unseen = value_and_gradient(lambda *z: loss_of_ranks(standardised_by_each_rank(*z), seen=False), both)
        found[f"gradient, {n} samples a rank, sum not seen, cosine"] = cosine(gradient, unseen)
        found[f"gradient, {n} samples a rank, sum not seen, size theirs / ours"] = (
            unseen.norm() / gradient.norm()
        ).item()
    return found


def gradient_scale(z: list[Tensor]) -> dict[str, float]:
    """Measure the official rule: C is summed over ranks in place, so a rank's gradient is that of its own addend."""
    found = {}
    for world_size in (2, 4, 16):

        def in_place(*leaves: Tensor, world_size: int = world_size) -> Tensor:
            a, b = (functional.batch_norm(leaf, None, None, training=True) for leaf in leaves)
            parts = [own_a.T @ own_b / len(a) for own_a, own_b in zip(a.chunk(world_size), b.chunk(world_size))]
            return loss_of_ranks(parts, seen=False)

        _, gradient = value_and_gradient(lambda a, b: objective(correlation(a, b)), z)
        _, theirs = value_and_gradient(in_place, z)
        found[f"{world_size} ranks, size theirs / ours"] = (theirs.norm() / gradient.norm()).item()
        found[f"{world_size} ranks, cosine"] = cosine(gradient, theirs)
    return found


def head_bias(z: list[Tensor]) -> dict[str, float]:
    """Measure Lightly's and solo-learn's bias of the last layer, a constant that the standardization removes."""
    bias = torch.randn(D, dtype=torch.float64)
    plain, biased = (objective(correlation(z[0] + shift, z[1] + shift)).item() for shift in (0 * bias, bias))
    return {"loss, theirs / ours - 1": biased / plain - 1}


def parameter_gradient(model: BarlowTwins, embed: Callable[[], Any]) -> Tensor:
    model.zero_grad()
    BarlowTwinsLoss(LAMBDA)(*embed()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def concatenated(model: BarlowTwins, views: list[Tensor]) -> dict[str, float]:
    """Measure the rule of Lightly's benchmark: both views in one pass, so BatchNorm's statistics are those of both."""
    one_by_one = parameter_gradient(model, lambda: model(*views))
    together = parameter_gradient(model, lambda: model.projector(model.backbone(torch.cat(views))).chunk(2))
    return {"gradient, cosine": cosine(one_by_one, together)}


def lars(model: BarlowTwins, views: list[Tensor]) -> dict[str, float]:
    """Measure Lightly's and solo-learn's LARS, which divides by |g| + wd |p|. The official code divides by |g + wd p|.

    Without weight decay, Lightly's LARS is SGD.
    """
    parameter_gradient(model, lambda: model(*views))
    weights = [p for p in model.parameters() if p.ndim > 1 and p.grad is not None]
    found = {}
    for decay in (1.6e-5, 1e-4, 1e-2):
        steps = [
            (p.grad + decay * p).norm() / (p.grad.norm() + decay * p.norm()) for p in weights if p.grad is not None
        ]
        found[f"weight decay {decay:g}, largest difference of a step"] = max(abs(1 - step.item()) for step in steps)
    without = [(p.grad.norm() / (0.001 * p.norm())).item() for p in weights if p.grad is not None]
    found["weight decay 0, Lightly's step / ours, median"] = float(np.median(without))
    return found


def schedule() -> dict[str, float]:
    """Compare the rates of 1,000 steps with 100 steps of warmup, in units of the base rate."""
    parameter = nn.Parameter(torch.zeros(1))
    theirs = CosineWarmupScheduler(torch.optim.SGD([parameter], lr=1.0), warmup_epochs=100, max_epochs=1000)
    differences = [theirs.scale_lr(step) - lr_scale(step, 1000, warmup_steps=100) for step in range(1000)]
    return {
        "Lightly's rate less ours, in warmup, most": max(differences[:100], key=abs),
        "Lightly's rate less ours, after it, most": max(differences[100:], key=abs),
        "Lightly's first rate": theirs.scale_lr(0),
        "our first rate": lr_scale(0, 1000, warmup_steps=100),
    }


def interpolation(loader: TwoViewLoader) -> dict[str, float]:
    """Compare bicubic and bilinear crops of the same photographs, in levels from 0 to 255."""
    from skimage import data

    photographs = [Image.fromarray(array) for array in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]
    (params, _) = PRESETS["barlow_twins"].views
    draws, _ = draw_views((params, params), 200, 0)
    levels = []
    for row in range(200):
        image = photographs[row % len(photographs)]
        window = crop_window(image.height, image.width, draws, row, params.crop_ratio)
        crops = [
            np.asarray(F.resized_crop(image, *window, [224, 224], mode), dtype=np.float64)
            for mode in (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR)
        ]
        levels.append(np.abs(crops[0] - crops[1]))
    return {"mean": float(np.mean([level.mean() for level in levels])), "most": float(max(lv.max() for lv in levels))}


def lambda_share(z: list[Tensor]) -> dict[str, float]:
    """Compare the loss with Lightly's default lambda, 5e-3, if the redundancy term is that of all ranks."""
    c = correlation(*z)
    whole = objective(c).item()
    redundancy = (c.square().sum() - c.diagonal().square().sum()).item()
    return {"loss, theirs / ours - 1": (whole - (LAMBDA - 5e-3) * redundancy) / whole - 1}


if __name__ == "__main__":
    main()
