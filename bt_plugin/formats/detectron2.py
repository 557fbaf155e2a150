"""Write pickled arrays in the keys of detectron2's ResNet, for detection and segmentation."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from torch import Tensor

from bt_plugin.errors import WeightsError
from bt_plugin.formats.exported import Exported
from bt_plugin.models.backbone_names import is_own
from bt_plugin.runs.atomic_file import write_atomically

SUFFIX = "_detectron2.pkl"
# Depth, groups and width of a group of the ResNets that detectron2 can build.
_RESNETS = {
    "resnet18": (18, 1, 64),
    "resnet34": (34, 1, 64),
    "resnet50": (50, 1, 64),
    "resnet101": (101, 1, 64),
    "resnet152": (152, 1, 64),
    "resnext50_32x4d": (50, 32, 4),
    "resnext101_32x8d": (101, 32, 8),
    "resnext101_64x4d": (101, 64, 4),
    "wide_resnet50_2": (50, 1, 128),
    "wide_resnet101_2": (101, 1, 128),
}


def write(exported: Exported, path: Path) -> None:
    """Write the backbone as detectron2's checkpointer reads it.

    Raises:
        WeightsError: If detectron2 has no such ResNet.

    Source:
        Keys: facebookresearch/detectron2 detectron2/modeling/backbone/resnet.py:336-353 and 614-694 at 02b5c4e. File:
        detectron2/checkpoint/detection_checkpoint.py:70-77.
    """
    is_known = exported.architecture in _RESNETS and not is_own(exported.backbone_name)
    if not is_known or exported.stem != "standard" or exported.args:
        args = f" and args: {exported.args}" if exported.args else ""
        raise WeightsError(
            f"--to detectron2: {exported.backbone_name} with stem: {exported.stem}{args} is none of"
            f" detectron2's ResNets, {', '.join(_RESNETS)} with stem: standard and no args. Use --to torch-export"
        )
    arrays = {detectron2_key(key): value.numpy() for key, value in exported.state().items() if _is_kept(key, value)}
    # detectron2's heuristics also find these keys in a detector, where a prefix precedes them.
    content = {"model": arrays, "__author__": "bt-plugin", "matching_heuristics": True}
    write_atomically(path, pickle.dumps(content))


def usage(exported: Exported, path: Path) -> str:
    """Return the detector's configuration."""
    depth, groups, width = _RESNETS[exported.architecture]
    lines = ["MODEL:", f"  WEIGHTS: {path}"]
    if normalization := exported.mean_and_std():
        for name, values in zip(("PIXEL_MEAN", "PIXEL_STD"), normalization):
            lines.append(f"  {name}: {[round(255 * value, 3) for value in values]}")
    lines.append("  RESNETS:")
    lines += [f"    DEPTH: {depth}", f"    NUM_GROUPS: {groups}", f"    WIDTH_PER_GROUP: {width}"]
    lines.append("    STRIDE_IN_1X1: False")
    if depth < 50:
        lines.append("    RES2_OUT_CHANNELS: 64")
    return "\n".join([*lines, "INPUT:", '  FORMAT: "RGB"'])


def detectron2_key(key: str) -> str:
    """Return detectron2's key for a key of torchvision's ResNet."""
    key = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", key)
    key = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", key)
    key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return key if key.startswith("res") else f"stem.{key}"


def _is_kept(key: str, value: Tensor) -> bool:
    """Return whether detectron2 has this weight. Its FrozenBatchNorm2d has no counter of batches, and would warn."""
    return value.is_floating_point()
