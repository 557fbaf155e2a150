"""Try names of networks that lead to other paths (B2)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hostile_cases import FailedError, Place, Try, tries
from hostile_cases_verdicts import refused, right


def _backbone_name(place: Place, name: Any, to: str) -> None:
    """Write a hostile name into model.json. It must not lead to any path."""
    shutil.copytree(place.shared / "run/export", place.folder / "inner/d")
    (place.folder / "outside").mkdir()
    path = place.folder / "inner/d/model.json"
    content = json.loads(path.read_text())
    content["model"]["backbone"] = name.replace("PLACE", str(place.folder)) if isinstance(name, str) else name
    path.write_text(json.dumps(content))
    before = _everything(place.folder)
    result = place.bt("export", "inner/d", "--to", to, limit=40)
    new = _everything(place.folder) - before
    if new:
        raise FailedError("code", f"files were written: {sorted(map(str, new))[:3]}")
    refused(result, "model.json")


def _everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*")}


_BACKBONES: dict[str, tuple[Any, str]] = {
    "an absolute path": ("torchvision/PLACE/outside/x", "safetensors"),
    "two slashes": ("torchvision//PLACE/outside/x", "safetensors"),
    "dots": ("torchvision/../../outside/x", "safetensors"),
    "a network and dots": ("torchvision/shufflenet_v2_x0_5/../../../outside/x", "torchvision"),
    "timm and dots": ("timm/../../../outside/x", "timm"),
    "timm's local folders": ("timm/local-dir:PLACE/outside", "timm"),
    "timm's hub": ("timm/hf-hub:someone/something", "onnx"),
    "the hub's old name": ("timm/hf_hub:someone/something", "hf"),
    "a function of torchvision": ("torchvision/get_model", "safetensors"),
    "a module of torchvision": ("torchvision/_utils", "torchvision"),
    "a class of torchvision": ("torchvision/ResNet", "torch-export"),
    "a detector": ("torchvision/fasterrcnn_resnet50_fpn", "safetensors"),
    "NUL": ("torchvision/x\0y", "safetensors"),
    "a line feed": ("torchvision/resnet18\n../x", "safetensors"),
    "a back slash": ("torchvision\\..\\x", "safetensors"),
    "another network": ("torchvision/resnet18", "safetensors"),
    "100,000 letters": ("torchvision/" + "a" * 100_000, "safetensors"),
    "a number": (7, "safetensors"),
    "a list": (["torchvision/resnet18"], "safetensors"),
    "null": (None, "onnx"),
    "an object": ({"a": 1}, "hf"),
    "nothing": ("", "safetensors"),
    "a library alone": ("torchvision/", "safetensors"),
}


def _name_elsewhere(place: Place, arguments: tuple[str, ...]) -> None:
    """Use the same names in a recipe or on the command line."""
    texts = [text.replace("RECIPE", str(place.recipe)).replace("PLACE", str(place.folder)) for text in arguments]
    before = _everything(place.folder)
    refused(place.bt(*texts, limit=40))
    right(not _everything(place.folder) - before, "files were written")


_ELSEWHERE = {
    "a recipe with dots": (("check", "RECIPE", "model.backbone=torchvision/../../x"),),
    "a recipe with timm's local folder": (("check", "RECIPE", "model.backbone=timm/local-dir:PLACE"),),
    "a recipe with timm's hub": (("check", "RECIPE", "model.backbone=timm/hf-hub:a/b"),),
    "knn of a path": (("knn", "torchvision//PLACE/x", "data.train=PLACE", "data.val=PLACE"),),
    "knn of timm's hub": (("knn", "timm/hf-hub:a/b", "data.train=PLACE", "data.val=PLACE"),),
    "import with a path": (("import", "RECIPE", "--backbone", "torchvision/../x", "-o", "o"),),
}


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = tries("B2", {f"{name}, --to {to}": (value, to) for name, (value, to) in _BACKBONES.items()}, _backbone_name)
    return found + tries("B2", _ELSEWHERE, _name_elsewhere)
