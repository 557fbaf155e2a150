"""Build backbones of torchvision and timm by name, without their classifier."""

from __future__ import annotations

import difflib
from typing import Any, Literal, NamedTuple

from torch import nn

Stem = Literal["standard", "small"]
# torchvision's models that return auxiliary outputs in training.
_WITH_AUXILIARY_OUTPUTS = ("googlenet", "inception_v3")


class Backbone(NamedTuple):
    """A backbone and its number of features.

    Args:
        module: Network that maps images (n, C, H, W) float to features (n, feature_dim).
        feature_dim: Number of features.
    """

    module: nn.Module
    feature_dim: int


def build_backbone(
    name: str,
    *,
    stem: Stem = "standard",
    in_chans: int = 3,
    zero_init_residual: bool = True,
    pretrained: bool = False,
) -> Backbone:
    """Build a backbone of torchvision or timm without its classifier.

    The keys of its state_dict are those of its library.

    Args:
        name: Name of the model, as "torchvision/NAME" or "timm/NAME".
        stem: First layers of a ResNet. "small" replaces its 7x7 convolution of stride 2 and its max-pooling by a 3x3
            convolution of stride 1, for images of 64 px or less.
        in_chans: Number of channels of the images, 1 or more.
        zero_init_residual: Whether the last BatchNorm weight of each residual branch of a ResNet starts at zero. It
            has no effect on other models.
        pretrained: Whether to load the library's weights, which are for the standard stem and three channels. Otherwise
            the weights are random.

    Returns:
        The backbone as ``module``, and its number of features as ``feature_dim``.

    Raises:
        ValueError: If the model does not exist, has no linear classifier, or has no ResNet stem to make small.
        ImportError: If timm is needed and not installed.

    Source:
        zero_init_residual: facebookresearch/barlowtwins main.py:194 at 8e8d284.
        Small stem: Chen et al. 2020, SimCLR, appendix B.9.

    Examples:
        >>> backbone, feature_dim = build_backbone("torchvision/resnet18")
        >>> feature_dim
        512
    """
    library, _, model = name.partition("/")
    if library == "torchvision":
        backbone = _torchvision(model, in_chans, zero_init_residual, pretrained)
    elif library == "timm":
        backbone = _timm(model, in_chans, zero_init_residual, pretrained)
    else:
        raise ValueError(f"backbone {name!r} is not allowed; it must be torchvision/NAME or timm/NAME")
    if stem == "small":
        _make_stem_small(backbone.module, name)
    return backbone


def _torchvision(model: str, in_chans: int, zero_init_residual: bool, pretrained: bool) -> Backbone:
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        raise ValueError(f"backbone torchvision/{model} does not exist{_nearest(model, names)}")
    is_resnet = models.get_model_builder(model).__module__ == "torchvision.models.resnet"
    options = {"zero_init_residual": zero_init_residual} if is_resnet else {}
    if model in _WITH_AUXILIARY_OUTPUTS and not pretrained:
        options = {"aux_logits": False, "init_weights": True}
    module = models.get_model(model, weights="DEFAULT" if pretrained else None, **options)
    if model in _WITH_AUXILIARY_OUTPUTS:
        # In training these models return several outputs. With weights, only a built model can drop the extra ones.
        module.aux_logits = False
        for name in {"aux1", "aux2", "AuxLogits"} & dict(module.named_children()).keys():
            setattr(module, name, None)
    # torchvision names its classifiers fc, classifier or heads. The last Linear of a model is always in it.
    linears = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not linears:
        raise ValueError(f"backbone torchvision/{model} has no linear classifier to remove; use another backbone")
    path, classifier = linears[-1]
    _replace(module, path, nn.Identity())
    if in_chans != 3:
        path, conv = next((path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d))
        _replace(module, path, _conv_like(conv, in_channels=in_chans))
    return Backbone(module, classifier.in_features)


def _timm(model: str, in_chans: int, zero_init_residual: bool, pretrained: bool) -> Backbone:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone timm/{model} needs timm: pip install timm") from error

    if not timm.is_model(model):
        raise ValueError(f"backbone timm/{model} does not exist{_nearest(model, timm.list_models())}")
    is_resnet = timm.model_entrypoint(model).__module__ == "timm.models.resnet"
    options = {"zero_init_last": zero_init_residual} if is_resnet else {}
    try:
        module = timm.create_model(model, pretrained=pretrained, num_classes=0, in_chans=in_chans, **options)
    except RuntimeError as error:
        if "Invalid pretrained tag" not in str(error):
            raise
        tags = timm.list_pretrained(f"{model.partition('.')[0]}.*")
        raise ValueError(f"backbone timm/{model} does not exist; use one of {', '.join(tags) or 'no tag'}") from error
    return Backbone(module, getattr(module, "head_hidden_size", module.num_features))


def _make_stem_small(module: nn.Module, name: str) -> None:
    conv, pool = getattr(module, "conv1", None), getattr(module, "maxpool", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(pool, nn.Module):
        raise ValueError(f"stem: small is not allowed for {name}; only ResNets with a conv1 and a maxpool have it")
    module.conv1 = _conv_like(conv, kernel_size=3, stride=1, padding=1)
    module.maxpool = nn.Identity()


def _conv_like(conv: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    options = {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None} | changes
    new = nn.Conv2d(**options)
    # The initialization of ResNet's convolutions: He et al. 2015, fan-out.
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""
