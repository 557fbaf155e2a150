"""The learning-rate schedule: a function of the step alone."""

from __future__ import annotations

import math

from bt_plugin.config.recipe import Optim


def lr_scale(step: int, total_steps: int, *, warmup_steps: int, final: float = 0.001) -> float:
    """The factor of the base rates at a step: linear from 0 to 1, then a cosine down to `final`.

    Args:
        step: Steps already done, 0 to total_steps - 1.
        total_steps: Of the whole run.
        warmup_steps: Of the linear part, fewer than total_steps.
        final: Reached at total_steps.

    Source:
        facebookresearch/barlowtwins main.py:160-173 at 8e8d284.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def scheduled(optim: Optim, step: int, *, steps_per_epoch: int) -> float:
    """Return the factor of the base rates at a step of a recipe's run. To change the schedule, change this function.

    It must depend on nothing but its arguments, because a run resumes at any step without a state of the schedule.

    Args:
        optim: The recipe's section.
        step: Steps already done.
        steps_per_epoch: Steps of an epoch, the same on every rank.
    """
    warmup_steps = round(optim.warmup_epochs * steps_per_epoch)
    return lr_scale(step, optim.epochs * steps_per_epoch, warmup_steps=warmup_steps, final=optim.final_lr_scale)
