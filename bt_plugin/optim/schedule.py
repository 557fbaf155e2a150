"""The learning-rate schedule, which depends on the step only."""

from __future__ import annotations

import math

from bt_plugin.config.optim import Optim


def lr_scale(step: int, total_steps: int, *, warmup_steps: int, final: float = 0.001) -> float:
    """Return the factor of the base learning rates at a step.

    The factor rises linearly from 0 to 1 during the warm-up. Then it falls as a cosine to ``final``.

    Args:
        step: Number of steps already done, 0 to total_steps - 1.
        total_steps: Number of steps of the whole run, 1 or more.
        warmup_steps: Number of steps of the warm-up, 0 or more, fewer than total_steps.
        final: Factor at total_steps, 0 to 1.

    Source:
        facebookresearch/barlowtwins main.py:160-173 at 8e8d284.

    Examples:
        >>> [round(lr_scale(step, 100, warmup_steps=10), 3) for step in (0, 5, 10, 55)]
        [0.0, 0.5, 1.0, 0.5]
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def scheduled(optim: Optim, step: int, *, steps_per_epoch: int) -> float:
    """Return the factor of the base learning rates at a step of a recipe's run.

    To change the schedule, change this function. It must depend only on its arguments. A run resumes at any step, and
    its checkpoints have no state of the schedule.

    Args:
        optim: Section ``optim`` of the recipe.
        step: Number of steps already done, 0 or more.
        steps_per_epoch: Number of steps of an epoch, the same on every rank.
    """
    warmup_steps = round(optim.warmup_epochs * steps_per_epoch)
    return lr_scale(step, optim.epochs * steps_per_epoch, warmup_steps=warmup_steps, final=optim.final_lr_scale)
