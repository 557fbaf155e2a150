"""The recipe: a YAML file that describes a whole run. It is checked before any image is read.

Each section has a module of its own in this folder. None imports torch or DALI, so that a mistake in a recipe is
reported within a second.

docs/recipe_keys.py writes the page docs/recipe_keys.md from these classes. The docstring of a class introduces its
section; the docstring below a field describes its key.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Literal

import yaml
from pydantic import model_validator

from bt_plugin.config.data import Data
from bt_plugin.config.model import Model
from bt_plugin.config.optim import Optim
from bt_plugin.config.run import Eval, Run
from bt_plugin.config.section import Rate, Section, text_of
from bt_plugin.config.views import Views
from bt_plugin.errors import RecipeError
from dali_pipelines.views.params import Preset


class Loss(Section):
    """The Barlow Twins loss."""

    lambda_param: Rate | Literal["auto"] = 5.1e-3
    """Weight lambda of the redundancy term. `auto` is 1 / D."""
    form: Literal["auto", "cross", "gram"] = "auto"
    """How the redundancy term is computed: through the D x D cross-correlation matrix, or through two N x N Gram
    matrices of the global batch. The values are equal. `auto` picks the form that is estimated to be faster."""


class Recipe(Section):
    """A whole pretraining run. Defaults are the values of the official code."""

    data: Data
    views: Views = Views()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    run: Run
    eval: Eval = Eval()

    @model_validator(mode="after")
    def _graph_is_static(self) -> Recipe:
        if self.run.static_graph and self.optim.accumulation_steps > 1:
            raise ValueError(
                f"run.static_graph: true is not allowed with optim.accumulation_steps={self.optim.accumulation_steps},"
                " because the graph differs between micro-batches; set run.static_graph to false, or"
                " optim.accumulation_steps to 1"
            )
        return self

    @model_validator(mode="after")
    def _augments_on_a_gpu(self) -> Recipe:
        if self.data.augment == "fused" and self.run.device == "cpu":
            raise ValueError(
                "data.augment: fused is not allowed with run.device=cpu, because its kernels run on a GPU; set"
                " data.augment to auto. On a CPU data.backend=native computes the same steps"
            )
        if self.data.on_device is True and self.run.device == "cpu":
            raise ValueError(
                "data.on_device: true is not allowed with run.device=cpu, where images are in memory anyway; set"
                " data.on_device to auto"
            )
        return self

    @model_validator(mode="after")
    def _views_are_possible(self) -> Recipe:
        self.views.resolved(self.model.in_chans)
        return self

    @property
    def preset(self) -> Preset:
        """The two views of the training, with the recipe's changes."""
        return self.views.resolved(self.model.in_chans)

    def batch_size_per_rank(self, world_size: int) -> int:
        """Return the images per step on one rank, over all its micro-batches.

        Args:
            world_size: Number of ranks, 1 or more.

        Raises:
            RecipeError: If the global batch does not divide over ranks and micro-batches, or a micro-batch has fewer
                than two images.
        """
        batch, accumulation = self.optim.global_batch_size, self.optim.accumulation_steps
        parts = world_size * accumulation
        shares = f"{world_size} ranks" + (f" x {accumulation} accumulation_steps" if accumulation > 1 else "")
        size, rest = divmod(batch, parts)
        if rest:
            near = ", ".join(str(size) for size in (batch - rest, batch - rest + parts) if size)
            raise RecipeError(
                f"optim.global_batch_size: {batch} does not divide over {shares}; use {near},"
                " or another number of ranks"
            )
        if size < 2:
            raise RecipeError(
                f"optim.global_batch_size: {batch} over {shares} is {size} image each, and BatchNorm"
                f" needs at least 2; use {2 * parts} or more, or fewer ranks"
            )
        return size * accumulation

    def steps_per_epoch(self, n_images: int) -> int:
        """Return the number of steps in an epoch. The last, incomplete global batch is dropped.

        Args:
            n_images: Number of images that an epoch sees: all training images, if they have no weights.

        Raises:
            RecipeError: If there are fewer images than one global batch.
        """
        steps = n_images // self.optim.global_batch_size
        if steps == 0:
            raise RecipeError(
                f"optim.global_batch_size: {self.optim.global_batch_size} is more than the {n_images} images"
                f"{' an epoch' if self.data.weights else ''} of data.train {text_of(self.data.train)}; use at most"
                f" {n_images}, or more images"
            )
        return steps

    def resolved_dict(self) -> dict[str, dict[str, Any]]:
        """Return the recipe as sections of plain values, with every key of the views. It loads as the same recipe."""
        content = self.model_dump(mode="json")
        views = [asdict(view) for view in self.preset.views]
        for view in views:
            del view["channels"]  # model.in_chans gives it
        content["views"] = {"preset": self.views.preset, "a": views[0], "b": views[1]}
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(content))
        return plain

    def flat_dict(self) -> dict[str, Any]:
        """Return the recipe as one flat dict with keys such as ``optim.epochs``."""
        sections = self.resolved_dict()
        return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}

    def to_yaml(self) -> str:
        """Return the resolved recipe as the text of a YAML file."""
        return yaml.safe_dump(self.resolved_dict(), sort_keys=False, default_flow_style=None, width=120)
