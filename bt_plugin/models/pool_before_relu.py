"""Move a ResNet's first ReLU behind its max-pooling. The results are the same, from a quarter of the pixels."""

from __future__ import annotations

from torch import nn

# Name of the ReLU by module. The forward pass runs conv1, bn1, the ReLU and maxpool, and uses the ReLU nowhere else.
_ACTIVATIONS = {"torchvision.models.resnet": "relu", "timm.models.resnet": "act1"}


def pool_before_relu(model: nn.Module) -> None:
    """Swap ReLU and max-pooling in the stems of the ResNets of torchvision and timm.

    ReLU and maximum commute, and so do their gradients. The feature map before the pooling is the largest of a ResNet,
    and the speed of a ReLU is limited by memory.

    Args:
        model: Model to change in place. Models without such a stem stay as they are.
    """
    for module in model.modules():
        name = _ACTIVATIONS.get(type(module).__module__, "")
        pool, activation = getattr(module, "maxpool", None), getattr(module, name, None)
        if type(pool) is nn.MaxPool2d and type(activation) is nn.ReLU:
            module.maxpool = nn.Sequential(pool, activation)
            setattr(module, name, nn.Identity())
