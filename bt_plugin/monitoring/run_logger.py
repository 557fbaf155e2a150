"""Log a run: metrics.jsonl, trackers, progress bar, and warnings of a collapse."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from bt_plugin.config.recipe import Recipe
from bt_plugin.loss.barlow_twins import LossTerms
from bt_plugin.monitoring.callback import Callbacks
from bt_plugin.monitoring.collapse_warning import CollapseSigns
from bt_plugin.monitoring.meters import Best, Speed
from bt_plugin.monitoring.metrics_file import MetricsFile
from bt_plugin.monitoring.progress_bar import ProgressBar
from bt_plugin.monitoring.snapshot import Array, CorrelationSnapshot, SnapshotStore
from bt_plugin.monitoring.trackers import start_trackers, tell_metrics, tell_pictures
from bt_plugin.runs.directory import EVALUATIONS, METRICS
from bt_plugin.runtime.async_copy import AsyncCopy
from dali_pipelines.loaders import Batch, TwoViewLoader

# A line of metrics has every scalar of a step's LossTerms.
_TERMS = tuple(name for name in LossTerms._fields if name != "finite")


class _Line(NamedTuple):
    """A line of metrics, whose numbers may still be on the device."""

    step: int
    epoch: int
    names: list[str]
    fetched: AsyncCopy
    known: dict[str, float]


class RunLogger:
    """A logger of a run, from the step that it starts or resumes at. Create one on every rank; only rank 0 logs.

    Args:
        accelerator: Accelerator of this rank.
        recipe: The run's recipe.
        step: Number of steps done.
        last_step: Last step of the run.
        run_id: ID by which trackers find the run again.
        best: Best values of the run so far.
        callbacks: Callbacks that get each line of metrics.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        recipe: Recipe,
        *,
        step: int,
        last_step: int,
        run_id: str,
        best: Best,
        callbacks: Callbacks | None = None,
    ) -> None:
        self._accelerator = accelerator
        self._callbacks = callbacks or Callbacks()
        self._best = best
        self._collapse = CollapseSigns(recipe.optim.rate_keys)
        self._speed = Speed(recipe.optim.global_batch_size // recipe.optim.accumulation_steps)
        is_main = accelerator.is_main_process
        run_dir, names = Path(recipe.run.output_dir), (METRICS, EVALUATIONS) if is_main else ()
        self._files = {name: MetricsFile(run_dir, step, name) for name in names}
        self._snapshots = SnapshotStore(run_dir, step) if is_main else None
        start_trackers(accelerator, recipe, run_id=run_id, step=step)
        self._progress = ProgressBar(last_step, step, is_main)
        self._line: _Line | None = None

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A failed device returns no numbers. Its own error must not be hidden by a second one.
        with contextlib.suppress(RuntimeError):
            self.settle()
        self._progress.close()
        for file in self._files.values():
            file.close()

    def watch(self, loader: TwoViewLoader) -> Iterator[Batch]:
        """Yield the batches of an epoch, and time the wait for each."""
        return self._speed.watch(loader)

    def step_done(self) -> None:
        """Advance the bar. Log the last line if its numbers have arrived."""
        self._progress.step_done()
        if self._line and self._line.fetched.is_here:
            self.settle()

    def log(
        self,
        step: int,
        epoch: int,
        terms: LossTerms,
        *,
        rates: dict[str, float],
        norms: dict[str, Tensor],
        nonfinite: Tensor,
    ) -> None:
        """Log a line of metrics. It is written when its numbers arrive from the device, so that no step waits for them.

        Args:
            step: The step's number.
            epoch: The step's epoch.
            terms: The step's loss terms, on the device.
            rates: Learning rate of each parameter group, as lr_NAME.
            norms: Norms of the step's gradient and update, scalars on the device.
            nonfinite: Number of non-finite steps so far, a scalar on the device.
        """
        if not self._accelerator.is_main_process and not self._callbacks.handle("on_log"):
            return
        self.settle()
        numbers = {**{name: getattr(terms, name) for name in _TERMS}, **norms, "nonfinite_steps": nonfinite}
        fetched = AsyncCopy(torch.stack(list(numbers.values())))
        self._line = _Line(step, epoch, list(numbers), fetched, {**rates, **self._speed.report()})
        if fetched.is_here:
            self.settle()

    def settle(self) -> None:
        """Log the last line. Wait for its numbers if necessary."""
        if self._line is None:
            return
        line, self._line = self._line, None
        values = dict(zip(line.names, line.fetched.tolist())) | line.known
        values["nonfinite_steps"] = int(values["nonfinite_steps"])
        if self._accelerator.is_main_process:
            self._collapse.watch(line.step, values["diagonal_mean"], values["embedding_std"])
            self._best.watch(line.step, lower={"loss": values["loss"]})
            self._tell(METRICS, line.step, line.epoch, values)
        self._callbacks.log(line.step, line.epoch, values)
        self._progress.tell(
            f"loss {values['loss']:.3f}, {values['images_per_s']:.0f} images/s, waiting {values['data_wait']:.0%}"
        )

    def evaluated(
        self, step: int, epoch: int, values: dict[str, float], snapshot: CorrelationSnapshot, views: Array
    ) -> None:
        """Log the results of an evaluation and its pictures. Its time does not count as training time.

        Args:
            step: The step's number.
            epoch: The step's epoch.
            values: Metrics of the evaluation by name.
            snapshot: What is drawn of C and the embeddings.
            views: Picture of the views, (height, width, 3).
        """
        self.settle()
        if self._snapshots is not None:
            self._best.watch(step, higher={name: values[name] for name in values if name.endswith("_top1")})
            self._tell(EVALUATIONS, step, epoch, values)
            self._snapshots.add(step, snapshot)
            pictures = {"views": views} if self._snapshots.add_views(views) else {}
            if self._accelerator.trackers:
                # matplotlib takes a third of a second to import. Runs without evaluations do not need it.
                from bt_plugin.monitoring.figures import as_pixels, snapshot_figures

                pictures |= {name: as_pixels(figure) for name, figure in snapshot_figures(snapshot).items()}
                tell_pictures(self._accelerator, pictures, step)
        self._callbacks.evaluation(step, epoch, values)
        self._speed.report()

    def _tell(self, file: str, step: int, epoch: int, values: dict[str, Any]) -> None:
        self._files[file].write({"step": step, "epoch": epoch, **values})
        # Some names are metrics of the training batch and also of an evaluation, so that they need a prefix.
        prefix = "eval/" if file == EVALUATIONS else ""
        tell_metrics(self._accelerator, {f"{prefix}{name}": value for name, value in values.items()}, step)
