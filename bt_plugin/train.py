"""The training loop; the only file of the package that names Accelerator."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env, set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from bt_plugin import distributed
from bt_plugin.accumulate import accumulated_backward
from bt_plugin.build import build_model, loader_options, open_sources
from bt_plugin.checkpoint import load_checkpoint, resume_from, save_checkpoint
from bt_plugin.errors import DivergenceError, LaunchError, RecipeError
from bt_plugin.evaluate.report import evaluate_knn
from bt_plugin.export import export_model, versions
from bt_plugin.loss import BarlowTwinsLoss, LossTerms
from bt_plugin.method import BarlowTwins
from bt_plugin.monitor import MetricsFile, Speed
from bt_plugin.optim import LARS, lr_scale, parameter_groups
from bt_plugin.recipe import Recipe
from bt_plugin.rundir import SUMMARY, check_run_dir, claim_run_dir, write_atomically
from dali_pipelines.backends import cores_per_rank
from dali_pipelines.loaders import Batch, TwoViewLoader
from dali_pipelines.sources import ImageSource

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
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        seed=recipe.run.seed,
        prefetch=recipe.data.prefetch,
        micro_batches=recipe.optim.accumulation_steps,
        max_bad_files=recipe.data.max_bad_files,
        **loader_options(recipe, accelerator.device),
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
        self.steps_per_epoch = len(loader) // optim.accumulation_steps
        self.total_steps = optim.epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, recipe.run.max_steps or self.total_steps)
        self.step = 0

    def run(self) -> None:
        """Trains from the newest checkpoint, or from the beginning, to the last step."""
        self._resume()
        every = self.recipe.run.checkpoint_every_steps or self.steps_per_epoch
        accumulation = self.recipe.optim.accumulation_steps
        speed = Speed(self.recipe.optim.global_batch_size // accumulation)
        metrics = MetricsFile(self.run_dir, self.step) if self.accelerator.is_main_process else None
        self.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": self.step + 1}})
        with self._progress_bar() as bar:
            while self.step < self.last_step:
                batches = speed.watch(self.loader)
                for micro_batches in zip(*[batches] * accumulation):
                    terms = self._train_step(micro_batches)
                    bar.update()
                    if self.step % self.recipe.run.log_every_steps == 0:
                        self._log(terms, speed, metrics, bar)
                    if self.step % every == 0 or self.step == self.last_step:
                        self._save()
                    if self.step == self.last_step:
                        break
        if metrics:
            metrics.close()

    def _train_step(self, micro_batches: Sequence[Batch]) -> LossTerms:
        scale = self._lr_scale()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
        terms = self._backward([self._on_device(batch) for batch in micro_batches])
        self._check_finite(terms)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return terms

    def _backward(self, views: Sequence[tuple[Tensor, Tensor]]) -> LossTerms:
        backward = self.accelerator.backward
        if len(views) > 1:
            no_sync = partial(self.accelerator.no_sync, self.model)
            return accumulated_backward(self.model, self.loss, views, backward, no_sync)
        terms = self.loss.terms(*self.model(*views[0]))
        backward(terms.loss)
        return terms

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        view_a, view_b = (view.to(self.accelerator.device, non_blocking=True) for view in batch.views)
        return view_a, view_b

    def _check_finite(self, terms: LossTerms) -> None:
        """Ends the run on every rank, before the weights are touched."""
        if terms.finite.all() and terms.loss.isfinite():
            return
        ranks = [rank for rank, finite in enumerate(terms.finite.tolist()) if not finite]
        whose = f"the embeddings of rank {', '.join(map(str, ranks))} are not finite" if ranks else "the terms overflow"
        raise DivergenceError(
            f"step {self.step + 1}: the loss is {terms.loss.item():g}, {whose}; start anew with lower optim.lr_weights"
            f" and optim.lr_biases, or another run.mixed_precision than {self.accelerator.mixed_precision}."
            f" The checkpoints in {self.run_dir} are of the time before"
        )

    def _lr_scale(self) -> float:
        optim = self.recipe.optim
        warmup_steps = round(optim.warmup_epochs * self.steps_per_epoch)
        return lr_scale(self.step, self.total_steps, warmup_steps, optim.final_lr_scale)

    def _log(self, terms: LossTerms, speed: Speed, metrics: MetricsFile | None, bar: tqdm[Any]) -> None:
        if metrics is None:
            return
        weights, biases = self.optimizer.param_groups
        values = {name: getattr(terms, name).item() for name in ("loss", "invariance", "redundancy")}
        values |= {"lr_weights": weights["lr"], "lr_biases": biases["lr"], **speed.report()}
        metrics.write({"step": self.step, "epoch": (self.step - 1) // self.steps_per_epoch, **values})
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
        "epochs": training.step / training.steps_per_epoch,
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
