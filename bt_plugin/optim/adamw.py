"""torch's AdamW, as the training step needs it."""

from __future__ import annotations

from typing import Any

import torch

from bt_plugin.optim.tensors import like


def build_adamw(groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> torch.optim.AdamW:
    """Build torch's fused AdamW, which fulfills the contract of build_optimizer.

    Args:
        groups: Parameter groups, such as those of layer_groups.
        betas: Decay rates of the averages of the gradient and of its square, 0 or more, below 1.
    """
    optimizer: Any = torch.optim.AdamW(groups, betas=betas, fused=True)
    optimizer.found_inf = None
    # GradScaler would leave it to the kernel to skip a step of fp16. Accelerate, and with it the training step, could
    # then not see that it was skipped.
    optimizer._step_supports_amp_scaling = False
    optimizer.register_step_pre_hook(_match_layouts)
    built: torch.optim.AdamW = optimizer
    return built


def _match_layouts(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Give gradients and states the memory layout of their weights. A loaded state may have another one."""
    for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        p.grad = like(p, p.grad)
        state = optimizer.state[p]
        for name, value in state.items():
            if value.shape == p.shape:
                state[name] = like(p, value)
