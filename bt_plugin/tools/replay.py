"""Run a captured step again in one process, and find where it stops being finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bt_plugin.checkpoints.random_states import set_random_states
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import FileError, file_error
from bt_plugin.loss.accumulation import accumulated_backward
from bt_plugin.loss.barlow_twins import BarlowTwinsLoss
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.memory_format import lay_out
from bt_plugin.models.own_backbone import Factory, allowed_backbone
from bt_plugin.runs.directory import RECIPE
from bt_plugin.training.nonfinite_capture import RANDOM, STEP, WEIGHTS, CapturedStep, Views, rank_file
from bt_plugin.weights.checkpoint_file import read_safetensors
from dali_pipelines.regular_files import read_regular

Precision = Literal["no", "fp16", "bf16"]
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_BYTES = 2**28


class Output(NamedTuple):
    """What a module returned, over all its calls until the first non-finite number.

    Args:
        module: Path of the module.
        least: Smallest finite number.
        most: Largest finite number.
        nonfinite: Number of numbers that are NaN or infinite.
        images: Images whose part of the output is not finite.
    """

    module: str
    least: float
    most: float
    nonfinite: int
    images: list[str]


class Replay(NamedTuple):
    """A step that was run again.

    Args:
        step: The captured step.
        ranks: Ranks whose views were there.
        mixed_precision: Precision of the network in the replay.
        weights: Names of weights and statistics that are not finite before the step.
        views: Images with a view that is not finite.
        outputs: Outputs in the order of the forward pass. If one is not finite, it is the last.
        loss: The loss.
        backward: Path of the module whose output has the first non-finite gradient of the backward pass, if any.
        gradients: Names of parameters whose gradient is not finite.
    """

    step: CapturedStep
    ranks: list[int]
    mixed_precision: Precision
    weights: list[str]
    views: list[str]
    outputs: list[Output]
    loss: float
    backward: str | None
    gradients: list[str]

    @property
    def is_finite(self) -> bool:
        """Whether the loss and all gradients are finite."""
        return math.isfinite(self.loss) and not self.gradients


def replay(path: Path, mixed_precision: Precision | None = None, *, backbone: str | Factory | None = None) -> Replay:
    """Run a captured step again: forward and backward, in this process.

    The images of all ranks are one batch, so that BatchNorm and the loss are those of the run. The random states are
    those of the first rank. Networks with dropout therefore repeat a run of several ranks only approximately.

    Args:
        path: A folder RUN/nonfinite/step-STEP, or the file of one of its ranks, whose views are then the whole batch.
        mixed_precision: Precision of the network. Default: that of the run.
        backbone: Function that builds a backbone of the user's own, or its name as module:function.

    Raises:
        FileError: If a file is missing or damaged.
        WeightsError: If the recipe names a function of the user's, and backbone does not.
        RecipeError: If the recipe's model cannot be built here.
    """
    folder, only = (path.parent, path.name) if path.is_file() else (path, None)
    step = _read_step(folder)
    recipe = load_recipe(folder / RECIPE)
    device = torch.device(step.device if torch.cuda.is_available() else "cpu")
    ranks = [
        rank
        for rank in range(len(step.names))
        if (folder / rank_file(rank)).exists() and only in (None, rank_file(rank))
    ]
    if not ranks:
        raise FileError(f"{path}: is no file of a rank, or has none. Give a folder RUN/nonfinite/step-STEP")
    of_ranks = [read_safetensors(folder / rank_file(rank)) for rank in ranks]
    state = read_safetensors(folder / WEIGHTS)
    model = _model(recipe, state, folder, device, backbone)
    precision = mixed_precision or step.mixed_precision
    model.forward = torch.autocast(device.type, _DTYPES[precision], enabled=precision != "no")(model.forward)  # type: ignore[method-assign]
    try:
        batches = [
            (
                torch.cat([views["view_a"][batch] for views in of_ranks]).to(device),
                torch.cat([views["view_b"][batch] for views in of_ranks]).to(device),
            )
            for batch in range(len(of_ranks[0]["view_a"]))
        ]
    except (KeyError, IndexError, RuntimeError) as error:
        raise FileError(f"{folder}: the views of its ranks are damaged ({error}). Copy the folder again") from error
    names = _names_by_batch([step.names[rank] for rank in ranks], len(batches))
    set_random_states(
        {key.removeprefix(RANDOM): value for key, value in of_ranks[0].items() if key.startswith(RANDOM)}, device
    )
    trace = _Trace(model, names)
    loss = _backward(model, recipe, batches, step.grad_scale if precision == "fp16" else 1.0)
    return Replay(
        step=step,
        ranks=ranks,
        mixed_precision=precision,
        weights=[name for name, value in state.items() if not value.isfinite().all()],
        views=[name for images, views in zip(names, batches) for name in _spoilt(images, *views)],
        outputs=list(trace.outputs.values()),
        loss=loss,
        backward=trace.backward,
        gradients=[name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()],
    )


def _read_step(folder: Path) -> CapturedStep:
    try:
        return CapturedStep.model_validate_json(read_regular(folder / STEP, _MOST_BYTES))
    except FileNotFoundError:
        raise FileError(f"{folder}: has no {STEP}. Give a folder RUN/nonfinite/step-STEP") from None
    except OSError as error:
        raise file_error(error, folder / STEP) from error
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise FileError(f"{folder / STEP}: is damaged ({detail['loc']}: {detail['msg']}). Copy it again") from error


def _model(
    recipe: Recipe, state: dict[str, Tensor], folder: Path, device: torch.device, given: str | Factory | None
) -> BarlowTwins:
    """Return the model of the run as it was before the step."""
    stored = recipe.model
    allowed = allowed_backbone(stored.backbone, given, sha256=stored.backbone_sha256, file=folder / RECIPE)
    model = build_model(recipe, backbone=None if isinstance(allowed, str) else allowed)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise FileError(f"{folder / WEIGHTS}: does not fit the model of {RECIPE} next to it: {error}") from error
    return lay_out(model.to(device), recipe.run.memory_format, by_layer=device.type == "cpu").train()


def _backward(model: BarlowTwins, recipe: Recipe, batches: list[Views], grad_scale: float) -> float:
    """Run the step without its update. Return the loss."""
    loss_fn = BarlowTwinsLoss(recipe.loss.lambda_param, form=recipe.loss.form)
    if len(batches) > 1:
        loss = accumulated_backward(model, loss_fn, batches, backward=lambda loss: (loss * grad_scale).backward()).loss
    else:
        loss = loss_fn(*model(*batches[0]))
        (loss * grad_scale).backward()
    return float(loss.detach())


def _names_by_batch(names: list[list[str]], batches: int) -> list[list[str]]:
    """Return the names of the images of each micro-batch, over all ranks."""
    sizes = [len(of_rank) // batches for of_rank in names]
    return [
        [name for of_rank, size in zip(names, sizes) for name in of_rank[batch * size : (batch + 1) * size]]
        for batch in range(batches)
    ]


def _spoilt(images: list[str], *tensors: Tensor) -> list[str]:
    """Return the images whose rows are not finite. Tensors of both views have twice as many rows."""
    spoilt = set()
    for tensor in tensors:
        if tensor.ndim and len(tensor) % len(images) == 0:
            rows = tensor.detach().isfinite().flatten(1).all(dim=1) if tensor.ndim > 1 else tensor.detach().isfinite()
            spoilt |= {row % len(images) for row, is_finite in enumerate(rows.tolist()) if not is_finite}
    return [name for row, name in enumerate(images) if row in spoilt]


class _Trace:
    """Records what modules return, until something is not finite, and the first non-finite gradient.

    Args:
        model: Model whose forward passes are traced.
        names: Names of the images of each micro-batch.
    """

    def __init__(self, model: nn.Module, names: list[list[str]]) -> None:
        self.outputs: dict[str, Output] = {}
        self.backward: str | None = None
        self._is_spoilt = False
        self._names = names
        self._passes = -1
        model.register_forward_pre_hook(self._begins)
        for path, module in model.named_modules():
            module.register_forward_hook(self._hook(path or "the whole model"))

    def _begins(self, *_: Any) -> None:
        self._passes += 1

    def _hook(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = list(_tensors(output))
            for tensor in tensors:
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: self._differentiated(path, gradient))
            if tensors and not self._is_spoilt:
                self._record(path, tensors)

        return hook

    def _record(self, path: str, tensors: list[Tensor]) -> None:
        numbers = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        finite = numbers[numbers.isfinite()]
        least, most = (float(value) for value in finite.aminmax()) if len(finite) else (math.nan, math.nan)
        before = self.outputs.pop(path, None)
        if before:
            least, most = min(least, before.least), max(most, before.most)
        nonfinite = len(numbers) - len(finite)
        images = _spoilt(self._names[self._passes % len(self._names)], *tensors) if nonfinite else []
        self.outputs[path] = Output(path, least, most, nonfinite, images)
        self._is_spoilt = nonfinite > 0

    def _differentiated(self, path: str, gradient: Tensor) -> None:
        if self.backward is None and not gradient.isfinite().all():
            self.backward = path


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from _tensors(item)
