"""Compare the time of a LARS step: ours, the official code's and Lightly's, alternating.

python benchmarks/optimizer.py --official PATH/barlowtwins [--backbone torchvision/resnet50 --projector 8192 8192 8192]

The parameters are those of a backbone and its projector, with random gradients. The defaults are the paper's sizes.
torch's fused SGD shows the limit that the memory's speed sets. `bt-plugin bench` prints the optimizer's share of a
step.
"""

from __future__ import annotations

import argparse
import runpy
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lightly.utils import lars as lightlys
from record import write_record
from turns import Action, by_turns

from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.barlow_twins import build_projector
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups

WEIGHT_DECAY = 1e-6
MOMENTUM = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path)
    parser.add_argument("--backbone", default="torchvision/resnet50")
    parser.add_argument("--projector", type=int, nargs="+", default=[8192, 8192, 8192])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    model = (arguments.backbone, arguments.projector)
    makers: dict[str, Callable[[], Action]] = {name: partial(stepping, name, *model) for name in ("ours", "lightly")}
    if arguments.official:
        makers["official"] = partial(stepping, str(arguments.official / "main.py"), *model)
    makers["fused SGD, no LARS"] = partial(stepping, "sgd", *model)
    times_s = by_turns(makers, arguments.rounds, times=3, ahead=1)
    results = {}
    for name, times in times_s.items():
        ratios = [time_s / of_ours for time_s, of_ours in zip(times, times_s["ours"])]
        results[name] = {"median_s": statistics.median(times), "ratio": statistics.median(ratios), "times_s": times}
        print(
            f"{name:<20} {1e3 * results[name]['median_s']:8.1f} ms, {results[name]['ratio']:.2f} of the time of ours"
            f" ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    print(write_record("optimizer", {"results": results}))


def stepping(whose: str, backbone: str, widths: list[int]) -> Action:
    """Return an optimizer step with rates of 0. The arithmetic is the same, and the weights do not change.

    Args:
        whose: Optimizer: "ours", "lightly", "sgd", or the path of the official main.py.
        backbone: Name of the backbone.
        widths: Widths of the projector's layers.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, feature_dim = build_backbone(backbone)
    model = torch.nn.Sequential(network, build_projector(feature_dim, widths)).to(device)
    torch.manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    weights, others = (
        group["params"] for group in parameter_groups(model, lr_weights=0.0, lr_biases=0.0, weight_decay=WEIGHT_DECAY)
    )
    if whose == "ours":
        optimizer: torch.optim.Optimizer = LARS(
            parameter_groups(model, lr_weights=0.0, lr_biases=0.0, weight_decay=WEIGHT_DECAY), 0.0, momentum=MOMENTUM
        )
        optimizer.found_inf = torch.zeros((), device=device)
    elif whose == "lightly":
        groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        optimizer = lightlys.LARS(groups, lr=0.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    elif whose == "sgd":
        optimizer = torch.optim.SGD(
            [{"params": weights}, {"params": others, "weight_decay": 0.0}],
            lr=0.0,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
    else:
        filters = {"weight_decay_filter": True, "lars_adaptation_filter": True}
        groups = [{"params": weights}, {"params": others}]
        optimizer = runpy.run_path(whose)["LARS"](groups, lr=0.0, weight_decay=WEIGHT_DECAY, **filters)
    return optimizer.step


if __name__ == "__main__":
    main()
