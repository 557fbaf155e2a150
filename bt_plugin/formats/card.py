"""A model card from a run's own files: no number that is not in them."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

import yaml

from bt_plugin.formats.exported import Exported
from bt_plugin.rundir import RECIPE, SUMMARY

_KNN = {
    "raw": "raw pixels",
    "untrained": "untrained network",
    "calibrated": "untrained network, BatchNorm statistics estimated",
    "pretrained": "this network",
}


def model_card(exported: Exported) -> str:
    """README.md for the Hub: front matter, how to load, how it was trained and evaluated.

    The license is left to who publishes it.
    """
    description = exported.description
    tags = ["timm", "image-feature-extraction"]
    if description["method"] == "barlow_twins":
        tags += ["self-supervised-learning", "barlow-twins"]
    front = {"library_name": "timm", "pipeline_tag": "image-feature-extraction", "tags": tags}
    sections = [_what(exported), _load(exported), _images(exported)]
    if exported.run_dir:
        summary = _summary(exported.run_dir)
        recipe = yaml.safe_load((exported.run_dir / RECIPE).read_text(encoding="utf-8"))
        sections += [_training(description, recipe, summary), _evaluation(recipe, summary)]
    sections.append(_table("Versions", ("package", "version"), description.get("versions", {})))
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(filter(None, sections))


def _summary(run_dir: Path) -> dict[str, Any]:
    path = run_dir / SUMMARY
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _what(exported: Exported) -> str:
    description = exported.description
    name, features = exported.backbone_name, description["feature_dim"]
    text = f"# {exported.architecture}\n\nA backbone, {name}, of {features} features, without a classifier. "
    if source := description.get("source"):
        return (
            text + f"Its weights were imported from {PurePath(source['file']).name}, in the layout {source['kind']}.\n"
        )
    return text + "Pretrained without labels by [Barlow Twins](https://arxiv.org/abs/2103.03230), with bt-plugin.\n"


def _load(exported: Exported) -> str:
    return f"""## Use

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0)  # or "hf-hub:USER/NAME"
features = model(images)  # (n, {exported.description["feature_dim"]})
```
"""


def _images(exported: Exported) -> str:
    view, normalisation = exported.eval_view, exported.mean_and_std()
    if not view or not normalisation:
        return "How images were normalised is not in the file that the weights are from.\n"
    size, resize = view["size_px"], view["resize_px"]
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalisation)
    return (
        f"Images of {exported.in_chans} channel(s): shorter side resized to {resize} px ({view['interpolation']}),"
        f" centre cropped to {size} px, values of 0 to 1 less mean ({mean}), divided by std ({std}).\n"
    )


def _training(description: dict[str, Any], recipe: dict[str, Any], summary: dict[str, Any]) -> str:
    optim = description["optim"]
    rows = {
        "data": _short(recipe["data"]["train"]),
        "epochs": f"{summary['epochs']:g} of {optim['epochs']}" if "epochs" in summary else None,
        "steps": description["step"],
        "global batch": optim["global_batch_size"],
        "projector": " - ".join(map(str, description["model"]["projector"])),
        "lambda": description["loss"]["lambda_param"],
        "views": f"{description['views']['preset']}, {_views(description['views'])}",
        "base rate of weights, of biases": f"{optim['lr_weights']}, {optim['lr_biases']}",
        "weight decay": optim["weight_decay"],
        "seed": description["seed"],
        "ranks": summary.get("world_size"),
        "device": summary.get("device"),
    }
    given = {name: value for name, value in rows.items() if value is not None}
    return _table("Training", ("setting", "value"), given)


def _views(views: dict[str, Any]) -> str:
    sizes = dict.fromkeys(views[name]["size_px"] for name in ("a", "b"))
    return " and ".join(f"{size} px" for size in sizes)


def _evaluation(recipe: dict[str, Any], summary: dict[str, Any]) -> str:
    scores = summary.get("knn_top1")
    if not scores:
        return "## Evaluation\n\nThe run has no kNN evaluation.\n"
    rows = {_KNN.get(name, name): f"{score:.1%}" for name, score in scores.items()}
    settings = recipe["eval"]
    heading = f"kNN top-1 on {_short(recipe['data']['val'])} (k {settings['knn_k']}, t {settings['knn_temperature']})"
    return _table("Evaluation", (heading, ""), rows)


def _short(path: str) -> str:
    """A card is published: of an absolute path, only the last two names."""
    return "/".join(PurePath(path).parts[-2:]) if PurePath(path).is_absolute() else path


def _table(title: str, heading: tuple[str, str], rows: dict[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", f"| {heading[0]} | {heading[1]} |", "|---|---|", *lines, ""])
