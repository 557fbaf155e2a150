"""Measure the norms of the gradient and of the update in the steps that are logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, _foreach_sub_, nn
from torch.amp import GradScaler

from bt_plugin.optim.tensors import global_norm


class StepNorms:
    """Norms of every n-th step, on the device. Other steps compute nothing.

    The host waits only with fp16, whose gradient scaler makes it wait anyway.

    Args:
        model: Model that is trained. Its parameters may be sharded.
        every_steps: Steps between two measurements, 1 or more.
    """

    def __init__(self, model: nn.Module, *, every_steps: int) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._every_steps = every_steps
        self.values: dict[str, Tensor] = {}
        """Scalars of the last measured step. ``grad_norm`` is the Euclidean norm of all gradients together, and
        ``update_norm`` that of the change of all weights. Empty before the first measurement."""

    @contextmanager
    def measured(self, step: int, scaler: GradScaler | None) -> Iterator[None]:
        """Measure the update that is made inside. Call it on every rank.

        Args:
            step: Number of the step, from 1.
            scaler: Gradient scaler whose factor is still in the gradients, if there is one. The host reads the factor.
        """
        if step % self._every_steps:
            yield
            return
        grad_norm = global_norm([p.grad for p in self._parameters if p.grad is not None])
        if scaler is not None:
            grad_norm = grad_norm / scaler.get_scale()
        weights = [p.detach() for p in self._parameters]
        changes = [weight.clone() for weight in weights]
        yield
        _foreach_sub_(changes, weights)
        self.values = {"grad_norm": grad_norm, "update_norm": global_norm(changes)}
