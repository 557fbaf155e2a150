"""The learning-rate schedules, which depend on the step only."""

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


def wsd_lr_scale(step: int, total_steps: int, *, warmup_steps: int, stable_steps: int, final: float) -> float:
    """Return the factor of the base learning rates at a step: warm-up, stable, decay (WSD).

    The factor rises linearly from 0 to 1 during the warm-up, and stays 1 until the decay. Then it falls to ``final``,
    as 1 minus the square root of the share of the decay that is done.

    Args:
        step: Number of steps already done, 0 to total_steps - 1.
        total_steps: Number of steps of the whole run, 1 or more.
        warmup_steps: Number of steps of the warm-up, 0 or more.
        stable_steps: Number of steps before the decay, warmup_steps to total_steps.
        final: Factor at total_steps, 0 to 1.

    Source:
        Hägele et al. 2024, Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, equation 1 and
        section 3.2, https://arxiv.org/abs/2405.18392.

    Examples:
        >>> [wsd_lr_scale(step, 100, warmup_steps=10, stable_steps=80, final=0.0) for step in (5, 10, 80, 85)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup_steps:
        return step / warmup_steps
    if step < stable_steps:
        return 1.0
    progress = (step - stable_steps) / (total_steps - stable_steps)
    return final + (1 - final) * (1 - math.sqrt(progress))


def stable_steps(optim: Optim, *, steps_per_epoch: int) -> int | None:
    """Return the number of steps before the decay of a recipe's run. A run can be extended from this step.

    Args:
        optim: Section ``optim`` of the recipe.
        steps_per_epoch: Number of steps of an epoch, the same on every rank.

    Returns:
        The number of steps, or None if the schedule has no stable part.
    """
    if optim.schedule != "wsd":
        return None
    total_steps = optim.epochs * steps_per_epoch
    return total_steps - round(optim.decay_share * total_steps)


def scheduled(optim: Optim, step: int, *, steps_per_epoch: int) -> float:
    """Return the factor of the base learning rates at a step of a recipe's run.

    To change the schedule, change this function. It must depend only on its arguments. A run resumes at any step, and
    its checkpoints have no state of the schedule.

    Args:
        optim: Section ``optim`` of the recipe.
        step: Number of steps already done, 0 or more.
        steps_per_epoch: Number of steps of an epoch, the same on every rank.
    """
    total_steps = optim.epochs * steps_per_epoch
    warmup_steps, final = round(optim.warmup_epochs * steps_per_epoch), optim.final_lr_scale
    stable = stable_steps(optim, steps_per_epoch=steps_per_epoch)
    if stable is not None:
        return wsd_lr_scale(step, total_steps, warmup_steps=warmup_steps, stable_steps=stable, final=final)
    return lr_scale(step, total_steps, warmup_steps=warmup_steps, final=final)
