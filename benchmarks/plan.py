"""Compare the numbers of `bt-plugin plan` with measured ones: real steps on this CPU, and published trainings on GPUs.

python benchmarks/plan.py              everything, about ten minutes on one core
python benchmarks/plan.py --published  only what others have published

No published program is run here. Each row of PUBLISHED names its source, and how it differs from the planned step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import timm
import torch
from measured_step import measured_step
from record import write_record
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bt_plugin import BarlowTwinsLoss
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.planning.cards import CARDS
from bt_plugin.planning.fake_model import GpuAutocast, make_fake
from bt_plugin.planning.step_meter import Operation, StepMeter
from bt_plugin.planning.step_time import roofline_seconds
from bt_plugin.planning.traced_step import loss_bytes, trace_step

NVIDIA = "NVIDIA/DeepLearningExamples, ResNet-50 v1.5 README at 291f0d0, one GPU, DALI, fp16 is AMP"
TIMM = "huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv at 5e7d47c"
LIGHTLY = "lightly-ai/lightly, docs/source/getting_started/benchmarks.rst at 0243660, RTX A6000, float32"
STABLE = "galilai-group/stable-pretraining, benchmarks/imagenet10/RESULTS.md at 11bedae, forward and backward alone"
BASE: dict[str, Any] = {"data": {"train": "data"}, "run": {"output_dir": "runs/plan"}}
BACKBONES = ("torchvision/resnet18", "torchvision/resnet50", "timm/vit_small_patch16_224")
# Extra memory of the loss in 2026-11-22_loss.json, in MiB: form, N, D, measured.
LOSS_RECORD = [("cross", 64, 8192, 270.2), ("gram", 64, 8192, 10.9)]


class Supervised(NamedTuple):
    """A published supervised training: the speed of a network of timm on a GPU."""

    model: str
    gpu: str
    batch: int
    precision: str
    images_per_s: float
    source: str


class Twins(NamedTuple):
    """A published Barlow Twins training: allocated memory in GiB, or speed in images/s."""

    changes: dict[str, Any]
    gpu: str
    gib: float | None
    images_per_s: float | None
    source: str


SUPERVISED = [
    Supervised("resnet50", "a100", 256, "fp16", 2470, NVIDIA),
    Supervised("resnet50", "a100", 256, "no", 938, NVIDIA),
    Supervised("resnet50", "v100", 256, "fp16", 1156, NVIDIA),
    Supervised("resnet50", "v100", 112, "no", 356, NVIDIA),
    Supervised("resnet18", "3090", 512, "fp16", 3481.78, TIMM),
    Supervised("resnet50", "3090", 512, "fp16", 1218.01, TIMM),
    Supervised("resnet101", "3090", 256, "fp16", 747.89, TIMM),
    Supervised("convnext_tiny", "3090", 256, "fp16", 819.24, TIMM),
    Supervised("vit_small_patch16_224", "3090", 384, "fp16", 1057.92, TIMM),
]
_RESNET18 = {"model.backbone": "torchvision/resnet18", "model.projector": [2048, 2048, 2048], "optim.name": "sgd"}
_CIFAR = {**_RESNET18, "model.stem": "small", "views.both.size_px": 32}
_VIT = {"model.backbone": "timm/vit_small_patch16_224", "model.projector": [2048, 2048, 2048], "optim.name": "adamw"}
TWINS = [
    Twins({**_CIFAR, "optim.global_batch_size": 128}, "rtx-a6000", 1.7, None, LIGHTLY),
    Twins({**_CIFAR, "optim.global_batch_size": 512}, "rtx-a6000", 5.1, None, LIGHTLY),
    Twins({**_RESNET18, "views.both.size_px": 128, "optim.global_batch_size": 256}, "rtx-a6000", 4.0, None, LIGHTLY),
    Twins({**_RESNET18, "views.both.size_px": 224, "optim.global_batch_size": 256}, "rtx-a6000", 11.3, None, LIGHTLY),
    Twins(
        {**_VIT, "views.both.size_px": 224, "optim.global_batch_size": 256, "run.mixed_precision": "fp16"},
        "h200",
        None,
        256 / (26.7e-3 + 68.7e-3),
        STABLE,
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true", help="compare with published numbers only")
    arguments = parser.parse_args()
    found: dict[str, Any] = {} if arguments.published else {"steps": list(steps()), "loss": list(losses())}
    found |= {"supervised": list(supervised()), "twins": list(twins())}
    print(write_record("plan", found))


def steps() -> Iterator[dict[str, Any]]:
    """Compare traced with real steps on the CPU."""
    print(f"{'backbone':<28} {'checkpointing':<14} {'k':>2} {'saved':>7} {'peak':>7} {'flops':>7} {'trace, s':>9}")
    for backbone in BACKBONES:
        for checkpointing in ("none", "blocks"):
            for count in (1, 2):
                recipe = load_recipe(BASE, cpu_step(backbone, checkpointing, count))
                real = measured_step(recipe)
                begun_s = time.perf_counter()
                traced = trace_step(recipe, micro_batch_size=recipe.optim.global_batch_size // count)
                row = {
                    "backbone": backbone,
                    "activation_checkpointing": checkpointing,
                    "accumulation_steps": count,
                    "saved": [sum(traced.activation_bytes.values()), real.saved_bytes],
                    "peak": [sum(traced.peak_bytes.values()) - sum(traced.kept_bytes.values()), real.peak_bytes],
                    "flops": [sum(operation.flops for operation in traced.operations), real.flops],
                    "traced_s": time.perf_counter() - begun_s,
                }
                ratios = " ".join(f"{row[key][0] / row[key][1]:7.4f}" for key in ("saved", "peak", "flops"))
                print(f"{backbone:<28} {checkpointing:<14} {count:>2} {ratios} {row['traced_s']:9.1f}")
                yield row


def cpu_step(backbone: str, checkpointing: str, count: int) -> dict[str, Any]:
    """Return the changes of a step that a CPU computes as a GPU does. SGD has one path for both."""
    is_vit = "vit" in backbone
    return {
        "run.device": "cpu",
        "run.memory_format": "channels_last",
        "run.log_every_steps": 1,
        "model.backbone": backbone,
        "model.projector": [256, 256, 256],
        "model.activation_checkpointing": checkpointing,
        "views.both.size_px": 224 if is_vit else 64,
        "optim.name": "sgd",
        "optim.accumulation_steps": count,
        "optim.global_batch_size": count * (2 if is_vit else 8),
    }


def losses() -> Iterator[dict[str, Any]]:
    """Compare the loss's memory with its record."""
    for form, n, d, measured_mib in LOSS_RECORD:
        traced_mib = loss_bytes(BarlowTwinsLoss(form=form), n=n, d=d) / 2**20  # type: ignore[arg-type]
        print(f"loss {form:<5} {n} x {d}: {traced_mib:.1f} MiB traced, {measured_mib:.1f} measured")
        yield {"form": form, "n": n, "d": d, "traced_mib": traced_mib, "measured_mib": measured_mib}


def supervised() -> Iterator[dict[str, Any]]:
    """Compare the roofline of supervised steps with published speeds."""
    print(f"{'network':<24} {'GPU':<10} {'precision':<9} {'roofline, images/s':>19} {'published':>10} {'share':>6}")
    for row in SUPERVISED:
        operations = supervised_step(row)
        images_per_s = row.batch / sum(roofline_seconds(each, CARDS[row.gpu]) for each in operations)
        yield _compared(row.model, row.gpu, row.precision, images_per_s, row.images_per_s, row._asdict())


def supervised_step(row: Supervised) -> list[Operation]:
    """Return the operations of a supervised step of a network of timm, with SGD."""
    model = timm.create_model(row.model).to(memory_format=torch.channels_last)
    with FakeTensorMode(), GpuAutocast(), StepMeter() as meter:
        make_fake(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
        images = torch.empty(row.batch, 3, 224, 224, memory_format=torch.channels_last)
        labels = torch.empty(row.batch, dtype=torch.int64)
        meter.begin()
        with torch.autocast("cpu", torch.bfloat16, enabled=row.precision != "no"):
            loss = nn.functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        return list(meter.operations)


def twins() -> Iterator[dict[str, Any]]:
    """Compare planned steps with published Barlow Twins trainings."""
    for row in TWINS:
        recipe = load_recipe(BASE, row.changes)
        traced = trace_step(recipe, micro_batch_size=recipe.optim.global_batch_size)
        gib = sum(traced.peak_bytes.values()) / 2**30
        roofline_s = sum(roofline_seconds(each, CARDS[row.gpu]) for each in traced.operations)
        if row.gib is not None:
            size = recipe.preset.views[0].size_px
            print(
                f"{recipe.model.backbone}, {size} px, batch {recipe.optim.global_batch_size}: {gib:.2f} GiB planned,"
                f" {row.gib} published, ratio {gib / row.gib:.2f}"
            )
            yield {**row._asdict(), "planned_gib": gib}
        else:
            assert row.images_per_s is not None
            images_per_s = recipe.optim.global_batch_size / roofline_s
            precision = recipe.run.mixed_precision
            yield _compared(recipe.model.backbone, row.gpu, precision, images_per_s, row.images_per_s, row._asdict())


def _compared(
    model: str, gpu: str, precision: str, images_per_s: float, published: float, row: dict[str, Any]
) -> dict[str, Any]:
    share = published / images_per_s
    print(f"{model:<24} {gpu:<10} {precision:<9} {images_per_s:19.0f} {published:10.0f} {share:6.2f}")
    return {**row, "roofline_images_per_s": images_per_s, "share": share}


if __name__ == "__main__":
    main()
