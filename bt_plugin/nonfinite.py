"""Steps that are NaN or infinite: they leave no trace in the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

# In a message.
_NAMED_IMAGES = 16


class NonFiniteSteps:
    """Counts steps whose loss or gradient is not finite, and takes back what their forward pass did.

    All ranks decide alike: the loss is of all of them, and so are gradients after their averaging.

    Args:
        model: Whose gradients are looked at; its buffers, such as BatchNorm's running statistics, would stay NaN.
        total: Such steps so far.
    """

    def __init__(self, model: nn.Module, total: int = 0) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._buffers = list(model.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]
        self.total = total
        self.in_a_row = 0

    def is_sound(self, loss: Tensor) -> bool:
        """Whether loss and gradients are finite. The one point of a step at which the host waits for the device."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        # The sum of magnitudes: it is finite if they are, and an empty shard has one too.
        total = nn.utils.get_total_norm(gradients, norm_type=1)
        if isinstance(total, DTensor):
            total = total.full_tensor()
        return bool((loss.detach() + total).isfinite())

    def explained(self, finite: list[bool], names: list[list[str]]) -> str:
        """What is not finite.

        Args:
            finite: Whether each rank's embeddings are.
            names: Of the images of each rank's batch.
        """
        ranks = [rank for rank, is_finite in enumerate(finite) if not is_finite]
        what = f"the embeddings of rank {', '.join(map(str, ranks))} are" if ranks else "the loss or its gradient is"
        images = [name for rank in ranks or range(len(names)) for name in names[rank]]
        more = f" and {len(images) - _NAMED_IMAGES} more" if len(images) > _NAMED_IMAGES else ""
        return (
            f"{what} not finite, for {self.in_a_row} steps in a row, of the images"
            f" {', '.join(images[:_NAMED_IMAGES])}{more}"
        )

    def settle(self, is_sound: bool) -> None:
        """Keeps the buffers of a sound step, and restores them after another."""
        if is_sound:
            self.in_a_row = 0
            _copy(self._buffers, self._kept)
        else:
            self.in_a_row += 1
            self.total += 1
            _copy(self._kept, self._buffers)


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    if source:
        torch._foreach_copy_(target, source)
