"""Write a model card from a run's own files. Every number is in them."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import yaml

from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.config.section import text_of
from bt_plugin.formats.exported import Exported
from bt_plugin.runs.accuracies import accuracy_table
from bt_plugin.runs.directory import RECIPE, SUMMARY
from bt_plugin.runs.result_files import Summary, read_result
from bt_plugin.weights.model_file import ModelDescription


def model_card(exported: Exported) -> str:
    """Return README.md for the Hub: front matter, how to load the model, and how it was trained and evaluated.

    The card names no license. The publisher adds it.
    """
    description = exported.description
    tags = ["timm", "image-feature-extraction"]
    if description.method == "barlow_twins":
        tags += ["self-supervised-learning", "barlow-twins"]
    front = {"library_name": "timm", "pipeline_tag": "image-feature-extraction", "tags": tags}
    sections = [_what(exported), _load(exported), _images(exported)]
    if exported.run_dir:
        summary = read_result(exported.run_dir / SUMMARY, Summary)
        recipe = load_recipe(exported.run_dir / RECIPE)
        sections += [_training(description, recipe, summary), _evaluation(recipe, summary)]
    sections.append(_table("Versions", ("package", "version"), description.versions))
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(filter(None, sections))


def _what(exported: Exported) -> str:
    description = exported.description
    name, features = exported.backbone_name, description.feature_dim
    text = f"# {exported.architecture}\n\nThe backbone {name} with {features} features, without a classifier. "
    if source := description.source:
        return text + f"Its weights were imported from {PurePath(source.file).name}, in the layout {source.kind}.\n"
    return text + "Pretrained without labels by [Barlow Twins](https://arxiv.org/abs/2103.03230), with bt-plugin.\n"


def _load(exported: Exported) -> str:
    return f"""## Use

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0)  # or "hf-hub:USER/NAME"
features = model(images)  # (n, {exported.description.feature_dim})
```
"""


def _images(exported: Exported) -> str:
    view, normalization = exported.eval_view, exported.mean_and_std()
    if not view or not normalization:
        return "The normalization of the images is unknown: the file of the weights does not store it.\n"
    size, resize = view.size_px, view.resize_px
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalization)
    return (
        f"{_pixels(exported.description)}Preprocess images of {exported.in_chans} channel(s) as follows: resize the"
        f" shorter side to {resize} px ({view.interpolation}), crop the center to {size} px, and scale the values to 0"
        f" to 1. Then subtract the mean ({mean}), and divide by the std ({std}).\n"
    )


def _pixels(description: ModelDescription) -> str:
    """Say which channels and values the images had, unless they were RGB of 8 bits."""
    channels, used = description.data.channels, description.data.value_range_used
    if used is None:
        return ""
    if used == "window":
        values = "The window of each DICOM file was 0 to 1"
    else:
        pairs = list(dict.fromkeys(f"{low:g} to {high:g}" for low, high in used))
        values = f"Stored values of {', '.join(pairs)} were 0 to 1"
    return f"{values}{f', of the channels {channels} counted from 0' if channels else ''}, and clamped. "


def _training(description: ModelDescription, recipe: Recipe, summary: dict[str, Any]) -> str:
    optim, loss, views = description.optim or {}, description.loss or {}, description.views or {}
    widths = description.model.projector
    sizes = dict.fromkeys(view.get("size_px") for view in map(views.get, ("a", "b")) if isinstance(view, dict))
    started = description.model.init
    rows = {
        "data": _shortened(recipe.data.train),
        "epochs": f"{summary['epochs']:g} of {optim.get('epochs')}" if summary.get("epochs") is not None else None,
        "steps": description.step,
        "started from": _short(started) if started else None,
        "SHA-256 of what it started from": description.model.init_sha256,
        "global batch": optim.get("global_batch_size"),
        "projector": " - ".join(map(str, widths)) if widths else None,
        "lambda": loss.get("lambda_param"),
        "views": f"{views.get('preset')}, {' and '.join(f'{size} px' for size in sizes)}" if sizes else None,
        "optimizer": optim.get("name"),
        **_rates(optim),
        "weight decay": optim.get("weight_decay"),
        "seed": description.seed,
        "ranks": summary.get("world_size"),
        "device": summary.get("device"),
    }
    given = {name: value for name, value in rows.items() if value is not None}
    return _table("Training", ("setting", "value"), given)


def _rates(optim: dict[str, Any]) -> dict[str, str]:
    if "lr_weights" in optim:
        return {"base learning rate of weights, of biases": f"{optim['lr_weights']}, {optim.get('lr_biases')}"}
    return {"base learning rate": f"{optim['lr']}"} if "lr" in optim else {}


def _evaluation(recipe: Recipe, summary: dict[str, Any]) -> str:
    columns, rows = accuracy_table(summary)
    if not columns:
        return "## Evaluation\n\nThe run has no evaluation.\n"
    knn, linear, retrieval = (summary.get(key) for key in ("knn_top1", "linear_top1", "view_retrieval_top1"))
    sentences = {
        f"Labeled images: {_shortened(recipe.data.val or '')}.": recipe.data.val and (knn or linear),
        f"kNN: k {recipe.eval.knn_k}, temperature {recipe.eval.knn_temperature}.": knn,
        "View retrieval: the share of training images whose other view is the nearest one.": retrieval,
        "Intervals: 95 %, over the choice of the images.": True,
        "The calibrated network is the untrained one with BatchNorm statistics re-estimated on training images.": True,
    }
    explained = " ".join(sentence for sentence, applies in sentences.items() if applies)
    heading = ("network", *(" ".join(filter(None, column)) for column in columns))
    return _table("Evaluation", heading, dict(rows)) + f"\n{explained}\n"


def _shortened(paths: str | tuple[str, ...]) -> str:
    return text_of(_short(paths) if isinstance(paths, str) else tuple(map(_short, paths)))


def _short(path: str) -> str:
    """Return the last two names of an absolute path, because a card is published."""
    return "/".join(PurePath(path).parts[-2:]) if PurePath(path).is_absolute() else path


def _table(title: str, heading: tuple[str, ...], rows: dict[str, Any]) -> str:
    cells = [(name, *(value if isinstance(value, list) else [value])) for name, value in rows.items()]
    lines = [heading, ("---",) * len(heading), *cells]
    return "\n".join([f"## {title}\n", *("| " + " | ".join(map(str, line)) + " |" for line in lines), ""])
