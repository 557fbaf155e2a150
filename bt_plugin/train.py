"""The training loop; the only file of the package that names Accelerator."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env, set_seed
from torch import nn
from tqdm.auto import tqdm

from bt_plugin import distributed
from bt_plugin.backbones import build_backbone
from bt_plugin.checkpoint import load_checkpoint, resume_from, save_checkpoint
from bt_plugin.errors import LaunchError, RecipeError
from bt_plugin.evaluate.report import evaluate_knn
from bt_plugin.export import export_model, versions
from bt_plugin.loss import BarlowTwinsLoss, LossTerms
from bt_plugin.method import BarlowTwins, build_projector
from bt_plugin.monitor import MetricsFile, Speed
from bt_plugin.optim import LARS, lr_scale, parameter_groups
from bt_plugin.recipe import Recipe
from bt_plugin.rundir import SUMMARY, check_run_dir, claim_run_dir, write_atomically
from dali_pipelines.loaders import Batch, TwoViewLoader
from dali_pipelines.sources import ImageSource, open_source
from dali_pipelines.stream import cores_per_rank

logger = logging.getLogger(__name__)


def pretrain(recipe: Recipe) -> dict[str, Any]:
    """Trains, exports and evaluates, and returns the summary. To be called on every rank.

    Raises:
        RecipeError: For whatever cannot be run as the recipe says, before anything is written.
        LaunchError: If the launcher's ranks are not one group.
    """
    accelerator = build_accelerator(recipe)
    check_run_dir(recipe)
    batch_size = recipe.batch_size_per_rank(accelerator.num_processes)
    model = build_model(recipe)
    train_source, val_source = open_sources(recipe)
    recipe.steps_per_epoch(len(train_source))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        claim_run_dir(recipe)
    accelerator.wait_for_everyone()

    loader = TwoViewLoader(
        train_source,
        batch_size,
        views=recipe.preset,
        device="gpu" if accelerator.device.type == "cuda" else "cpu",
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        seed=recipe.run.seed,
        num_threads=recipe.data.num_threads,
        prefetch=recipe.data.prefetch,
    )
    training = Training(recipe, accelerator, model, loader)
    training.run()
    return _finish(training, train_source, val_source)


def build_accelerator(recipe: Recipe) -> Accelerator:
    """Joins the ranks that were launched.

    Raises:
        RecipeError: If the device or the precision is not to be had here.
        LaunchError: If the launcher's ranks are not one group.
    """
    launched_on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    has_gpu = torch.cuda.is_available() and not launched_on_cpu
    if recipe.run.device == "gpu" and not has_gpu:
        reason = "the launcher says use_cpu" if launched_on_cpu else "torch sees no CUDA device"
        raise RecipeError(f"run.device: gpu is not allowed here, {reason}; take auto or cpu, or another launcher")
    cpu = recipe.run.device == "cpu" or not has_gpu
    asked = recipe.run.mixed_precision
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") if asked == "auto" else asked
    if cpu and precision == "fp16":
        raise RecipeError("run.mixed_precision: fp16 is not allowed on a CPU; take bf16 or no")
    if cpu:
        # Launchers set OMP_NUM_THREADS to 1, and half of two cores would idle.
        torch.set_num_threads(cores_per_rank())
    try:
        # Without cpu=True, ranks on a machine without CUDA would each believe that they are alone.
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=precision,
            log_with="tensorboard",
            project_dir=recipe.run.output_dir,
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    except ValueError as error:
        raise LaunchError(f"Accelerate cannot join the ranks: {error}; {distributed.LAUNCH_REMEDY}") from error
    distributed.check_launch()
    return accelerator


def build_model(recipe: Recipe) -> BarlowTwins:
    """The untrained model, a function of the recipe alone.

    Raises:
        RecipeError: If there is no such backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        choice = recipe.model
        try:
            backbone, feature_dim = build_backbone(
                choice.backbone, choice.stem, choice.in_chans, choice.zero_init_residual
            )
        except (ValueError, ImportError) as error:
            raise RecipeError(f"model.backbone: {error}") from error
        return BarlowTwins(backbone, build_projector(feature_dim, choice.projector))


def open_sources(recipe: Recipe) -> tuple[ImageSource, ImageSource | None]:
    """Training and validation images.

    Raises:
        RecipeError: If a folder is missing or empty.
    """
    sources = []
    for key, path in (("data.train", recipe.data.train), ("data.val", recipe.data.val)):
        try:
            sources.append(open_source(path) if path is not None else None)
        except ValueError as error:
            raise RecipeError(f"{key}: {error}") from error
    train, val = sources
    assert train is not None, "data.train is not optional"
    if val is not None and val.has_labels and train.has_labels and val.classes != train.classes:
        differing = sorted(set(train.classes) ^ set(val.classes))
        raise RecipeError(
            f"data.val: {recipe.data.val} must have the classes of data.train, or labels would not mean the same;"
            f" only one of them has {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}"
        )
    return train, val


class Training:
    """A run in progress: the state, and the loop over it.

    Args:
        recipe: Of the run.
        accelerator: Of this rank.
        model: With its initial weights.
        loader: Of this rank's two views.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, model: BarlowTwins, loader: TwoViewLoader) -> None:
        # Each rank its own dropout; the weights are made already, and the same.
        set_seed(recipe.run.seed, device_specific=True)
        self.recipe = recipe
        self.accelerator = accelerator
        self.loader = loader
        self.run_dir = Path(recipe.run.output_dir)
        self.loss = BarlowTwinsLoss(recipe.loss.lambda_param, gather_distributed=True, form=recipe.loss.form)
        if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = model.to(memory_format=torch.channels_last)
        optim = recipe.optim
        rate = optim.global_batch_size / 256
        groups = parameter_groups(model, optim.lr_weights * rate, optim.lr_biases * rate, optim.weight_decay)
        optimizer = LARS(groups, lr=0.0, momentum=optim.momentum, eta=optim.eta)
        # The loader shards itself, and the schedule is a function of the step: neither is prepared.
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.total_steps = optim.epochs * len(loader)
        self.last_step = min(self.total_steps, recipe.run.max_steps or self.total_steps)
        self.step = 0

    def run(self) -> None:
        """Trains from the newest checkpoint, or from the beginning, to the last step."""
        self._resume()
        every = self.recipe.run.checkpoint_every_steps or len(self.loader)
        speed = Speed(self.recipe.optim.global_batch_size)
        metrics = MetricsFile(self.run_dir, self.step) if self.accelerator.is_main_process else None
        self.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": self.step + 1}})
        with self._progress_bar() as bar:
            while self.step < self.last_step:
                for batch in speed.watch(self.loader):
                    terms = self._train_step(batch)
                    bar.update()
                    if self.step % self.recipe.run.log_every_steps == 0:
                        self._log(terms, speed, metrics, bar)
                    if self.step % every == 0 or self.step == self.last_step:
                        self._save()
                    if self.step == self.last_step:
                        break
        if metrics:
            metrics.close()

    def _train_step(self, batch: Batch) -> LossTerms:
        scale = self._lr_scale()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
        view_a, view_b = (view.to(self.accelerator.device, non_blocking=True) for view in batch.views)
        z_a, z_b = self.model(view_a, view_b)
        terms = self.loss.terms(z_a, z_b)
        self.accelerator.backward(terms.loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return terms

    def _lr_scale(self) -> float:
        optim = self.recipe.optim
        warmup_steps = round(optim.warmup_epochs * len(self.loader))
        return lr_scale(self.step, self.total_steps, warmup_steps, optim.final_lr_scale)

    def _log(self, terms: LossTerms, speed: Speed, metrics: MetricsFile | None, bar: tqdm[Any]) -> None:
        if metrics is None:
            return
        weights, biases = self.optimizer.param_groups
        values = {name: value.item() for name, value in terms._asdict().items()}
        values |= {"lr_weights": weights["lr"], "lr_biases": biases["lr"], **speed.report()}
        metrics.write({"step": self.step, "epoch": (self.step - 1) // len(self.loader), **values})
        self.accelerator.log(values, step=self.step)
        bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {values['images_per_s']:.0f} images/s, waiting {values['data_wait']:.0%}",
            refresh=False,
        )

    def _save(self) -> None:
        keep = self.recipe.run.keep_checkpoints
        save_checkpoint(self.accelerator, self.run_dir, self.step, self.loader.state_dict(), keep)

    def _resume(self) -> None:
        checkpoint = resume_from(self.run_dir, self.recipe.run.resume)
        if checkpoint is None:
            return
        progress = load_checkpoint(self.accelerator, checkpoint)
        try:
            self.loader.load_state_dict(progress["loader"])
        except ValueError as error:
            raise RecipeError(f"{checkpoint}: {error}") from error
        self.step = progress["step"]
        logger.info("continuing from %s", checkpoint)

    def _progress_bar(self) -> tqdm[Any]:
        return tqdm(
            total=self.last_step,
            initial=self.step,
            desc="pretrain",
            unit="step",
            # A log file wants few lines.
            mininterval=0.1 if sys.stderr.isatty() else 30,
            disable=not self.accelerator.is_main_process,
        )


def _finish(training: Training, train: ImageSource, val: ImageSource | None) -> dict[str, Any]:
    """Export, evaluation, summary."""
    recipe, accelerator = training.recipe, training.accelerator
    model = accelerator.unwrap_model(training.model)
    if accelerator.is_main_process:
        export_model(model, recipe, training.run_dir, training.step)
    knn = evaluate_knn(recipe, model, build_model(recipe), train, val, accelerator.device)
    summary = {
        "run": str(training.run_dir),
        "step": training.step,
        "epochs": training.step / len(training.loader),
        "world_size": accelerator.num_processes,
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
        "knn_top1": knn,
        "versions": versions(),
    }
    if accelerator.is_main_process:
        write_atomically(training.run_dir / SUMMARY, json.dumps(summary, indent=2) + "\n")
    # Closes the trackers, and the process group with them; no rank may leave it before the others.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return summary
