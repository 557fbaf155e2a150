"""The recipe's section `optim`: the optimizer, its schedule, and the batch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from bt_plugin.config.section import Positive, Rate, Section


class Optim(Section):
    """LARS, its schedule, and the batch."""

    epochs: Annotated[int, Field(ge=1, le=10**6)] = 1000
    """Number of training epochs."""
    warmup_epochs: Annotated[float, Field(ge=0, le=10**6)] = 10.0
    """Epochs of linear warm-up, fewer than `optim.epochs`."""
    global_batch_size: Annotated[int, Field(ge=2, le=2**24)] = 2048
    """Images per step, over all ranks."""
    accumulation_steps: Positive = 1
    """Micro-batches that a rank embeds one after the other in each step, to save memory. The gradient is exactly that
    of the whole global batch."""
    lr_weights: Rate = 0.2
    """Base learning rate of the weights. It is multiplied by `optim.global_batch_size` / 256."""
    lr_biases: Rate = 0.0003
    """Base learning rate of biases and normalization layers. It is multiplied by `optim.global_batch_size` / 256."""
    weight_decay: Rate = 1.6e-5
    """Weight decay of the weights. Biases and normalization layers have none."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of LARS."""
    eta: Rate = 0.001
    """Trust coefficient of LARS."""
    final_lr_scale: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Learning rates at the end of the cosine schedule, as a fraction of their peak."""

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Optim:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be less than epochs ({self.epochs})")
        return self
