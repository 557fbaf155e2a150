"""A ResNet's first ReLU after its max-pool: the same numbers, of a quarter of the pixels."""

from __future__ import annotations

from torch import nn

# Whose forward pass has conv1, bn1, this, and maxpool, in this order, and has it nowhere else.
_ACTIVATIONS = {"torchvision.models.resnet": "relu", "timm.models.resnet": "act1"}


def pool_before_relu(model: nn.Module) -> None:
    """Exchanges ReLU and max-pool in the stems of the ResNets of torchvision and timm.

    The largest of some numbers is the same before and after a ReLU, and so is its gradient. The map before the pool is
    the largest of a ResNet, and memory is what a ReLU waits for.
    """
    for module in model.modules():
        name = _ACTIVATIONS.get(type(module).__module__, "")
        pool, activation = getattr(module, "maxpool", None), getattr(module, name, None)
        if type(pool) is nn.MaxPool2d and type(activation) is nn.ReLU:
            module.maxpool = nn.Sequential(pool, activation)
            setattr(module, name, nn.Identity())
