"""Callbacks of a run: objects of the user that receive what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bt_plugin.errors import CallbackError
from bt_plugin.loss.barlow_twins import LossTerms

if TYPE_CHECKING:
    from bt_plugin.runs.summary import Summary


@dataclass(frozen=True)
class StepDone:
    """An optimization step that is done.

    Args:
        step: Number of the step, from 1.
        epoch: Epoch of the step, from 0.
        terms: Terms of the loss over the global batch, on the device. To read one, the host waits.
        rates: Learning rate of each parameter group, as lr_NAME.
    """

    step: int
    epoch: int
    terms: LossTerms
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Metrics:
    """Metrics of a step, as in a line of metrics.jsonl or evaluations.jsonl.

    Args:
        step: Number of the step, from 1.
        epoch: Epoch of the step, from 0.
        values: The metrics by name. They cannot be changed.
    """

    step: int
    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is written.

    Args:
        step: Number of steps that it contains.
        path: Its folder, RUN/checkpoint-STEP.
    """

    step: int
    path: Path


class Callback:
    """A base class for callbacks of a run. Override the methods that you need.

    Rank 0 calls them, or every rank if ``all_ranks`` is true. They receive what happened and cannot change it. If a
    method raises an error, the run writes a checkpoint and stops with an error that names the method.

    Examples:
        >>> class Losses(bt_plugin.Callback):
        ...     def on_log(self, metrics):
        ...         print(metrics.step, metrics.values["loss"])
        >>> bt_plugin.pretrain("quickstart", {"run.output_dir": "runs/losses"}, callbacks=[Losses()])
    """

    all_ranks = False
    """Whether every rank calls the methods of its own copy."""

    def on_step(self, done: StepDone) -> None:
        """Handle a step that is done. A slow method makes the run slower."""

    def on_log(self, metrics: Metrics) -> None:
        """Handle a line of metrics. Its numbers arrive from the device up to run.log_every_steps later."""

    def on_evaluation(self, metrics: Metrics) -> None:
        """Handle the metrics of an evaluation during the run."""

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Handle a checkpoint. On rank 0 it is complete. Another rank has written its part."""

    def on_end(self, summary: Summary) -> None:
        """Handle the summary of a run that is complete, after its export and its evaluation."""


class Callbacks:
    """The callbacks that this rank calls.

    Args:
        callbacks: Callbacks of the run.
        is_main: Whether this is rank 0.

    Raises:
        TypeError: If one of them is not a Callback.
    """

    def __init__(self, callbacks: Sequence[Callback] = (), *, is_main: bool = True) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks: {callback!r} is not a bt_plugin.Callback; derive its class from bt_plugin.Callback,"
                    " and give an instance"
                )
        self._called = [callback for callback in callbacks if is_main or callback.all_ranks]
        self.failure: CallbackError | None = None
        """Error of the first method that failed. No method is called after it."""

    def handle(self, method: str) -> bool:
        """Return whether any callback has its own version of a method."""
        return any(getattr(type(each), method) is not getattr(Callback, method) for each in self._called)

    def step(self, step: int, epoch: int, terms: LossTerms, rates: Mapping[str, float]) -> None:
        """Tell that a step is done."""
        if self.handle("on_step"):
            # The run does not read them again, so a callback that changes them changes nothing.
            detached = LossTerms(*(term.detach() for term in terms))
            self._call("on_step", StepDone(step, epoch, detached, MappingProxyType(dict(rates))))

    def log(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Tell the metrics of a step."""
        self._call("on_log", Metrics(step, epoch, MappingProxyType(dict(values))))

    def evaluation(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Tell the metrics of an evaluation."""
        self._call("on_evaluation", Metrics(step, epoch, MappingProxyType(dict(values))))

    def checkpoint(self, step: int, path: Path) -> None:
        """Tell that a checkpoint is written."""
        self._call("on_checkpoint", Checkpoint(step, path))

    def end(self, summary: Summary) -> None:
        """Tell the summary.

        Raises:
            CallbackError: If a method fails.
        """
        self._call("on_end", summary)
        if self.failure:
            raise self.failure

    def _call(self, method: str, event: Any) -> None:
        for callback in self._called:
            if self.failure is not None:
                return
            try:
                getattr(callback, method)(event)
            except Exception as error:  # the user's code raises any kind of error
                name = f"{type(callback).__name__}.{method}"
                where = f" at step {event.step}" if hasattr(event, "step") else ""
                self.failure = CallbackError(f"callback {name} failed{where}: {type(error).__name__}: {error}")
                self.failure.__cause__ = error
