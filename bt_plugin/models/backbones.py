"""Build backbones: networks of torchvision and timm without their classifier, and networks of the user's own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from torch import nn

from bt_plugin.errors import RecipeError
from bt_plugin.models.backbone_names import check_args, is_own
from bt_plugin.models.own_backbone import Factory, build_own_backbone, factory_name, import_factory

Stem = Literal["standard", "small"]
# torchvision's models that return auxiliary outputs in training.
_WITH_AUXILIARY_OUTPUTS = ("googlenet", "inception_v3")
# timm's modules whose models all take images of any size with dynamic_img_size.
_DYNAMIC_SIZE = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")


class Backbone(NamedTuple):
    """A backbone and its number of features.

    Args:
        module: Network that maps images (n, C, H, W) float to features (n, feature_dim).
        feature_dim: Number of features.
    """

    module: nn.Module
    feature_dim: int


def build_backbone(
    name: str | Factory,
    *,
    stem: Stem = "standard",
    in_chans: int = 3,
    zero_init_residual: bool = True,
    pretrained: bool = False,
    args: Mapping[str, Any] | None = None,
    size_px: int = 224,
) -> Backbone:
    """Build a backbone of torchvision or timm without its classifier, or one of your own.

    The keys of its state_dict are those of its library or of your network.

    Args:
        name: Name of the model, as "torchvision/NAME" or "timm/NAME". For a network of your own: a function that builds
            it, or the function's name as "module.path:function", which is imported. Its network must give features
            (n, F), or (n, F, h, w), of which the mean over h and w is taken.
        stem: First layers of a ResNet. "small" replaces its 7x7 convolution of stride 2 and its max-pooling by a 3x3
            convolution of stride 1, for images of 64 px or less.
        in_chans: Number of channels of the images, 1 or more.
        zero_init_residual: Whether the last BatchNorm weight of each residual branch of a ResNet starts at zero. It
            has no effect on other models.
        pretrained: Whether to load the library's weights, which are for the standard stem and three channels. Otherwise
            the weights are random.
        args: Further arguments of the library's constructor or of your function. ViTs of timm get
            dynamic_img_size=True, unless ``args`` has this key. They resample their position embedding for images of
            another size than their own, and its shape in the state_dict stays that of timm.
        size_px: Height and width in px of images that a network of your own takes. Two of them, without memory, find
            its number of features.

    Returns:
        The backbone as ``module``, and its number of features as ``feature_dim``.

    Raises:
        ValueError: If the model does not exist, has no linear classifier, or has no ResNet stem to make small.
        RecipeError: If an argument in ``args`` is unknown, not allowed or has a wrong value.
        BackboneError: If your function fails, or its network gives no features.
        ImportError: If timm is needed and not installed.

    Source:
        zero_init_residual: facebookresearch/barlowtwins main.py:194 at 8e8d284.
        Small stem: Chen et al. 2020, SimCLR, appendix B.9.

    Examples:
        >>> backbone, feature_dim = build_backbone("torchvision/resnet18")
        >>> feature_dim
        512
    """
    if callable(name) or is_own(name):
        backbone = _own(name, in_chans, pretrained, args or {}, size_px)
    else:
        backbone = _of_library(name, in_chans, zero_init_residual, pretrained, args or {})
    if stem == "small":
        _make_stem_small(backbone.module, name if isinstance(name, str) else factory_name(name))
    return backbone


def _own(name: str | Factory, in_chans: int, pretrained: bool, args: Mapping[str, Any], size_px: int) -> Backbone:
    if pretrained:
        raise ValueError("pretrained: a function of your own has no weights of a library; load them in the function")
    factory = import_factory(name) if isinstance(name, str) else name
    return Backbone(*build_own_backbone(factory, in_chans=in_chans, size_px=size_px, args=args))


def _of_library(
    name: str, in_chans: int, zero_init_residual: bool, pretrained: bool, args: Mapping[str, Any]
) -> Backbone:
    library, _, model = name.partition("/")
    check_args(name, args)
    if library == "torchvision":
        return _torchvision(model, in_chans, zero_init_residual, pretrained, args)
    if library == "timm":
        return _timm(model, in_chans, zero_init_residual, pretrained, args)
    raise ValueError(f"backbone {name!r} is not allowed; it must be torchvision/NAME, timm/NAME or module:function")


def timm_args(model: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the user with those that a model of timm needs for images of any size.

    Args:
        model: Name of the model in timm.
        args: Arguments given by the user.
    """
    import timm

    is_dynamic = timm.model_entrypoint(model).__module__.removeprefix("timm.models.") in _DYNAMIC_SIZE
    return {"dynamic_img_size": True, **args} if is_dynamic else dict(args)


@contextmanager
def _explaining(name: str, args: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of a library's constructor into errors of model.args, if there are arguments."""
    try:
        yield
    except (ImportError, OSError, RuntimeError):  # RuntimeError: an unknown tag of timm
        raise
    except Exception as error:
        if not args:
            raise
        says = " ".join(str(error).split())[:200].rstrip(".")
        unknown = re.search(r"unexpected keyword argument\W*(\w+)", says)
        if isinstance(error, TypeError) and unknown:
            raise RecipeError(f"model.args: {name} has no argument {unknown[1]}; remove it") from error
        shown = ", ".join(f"{key}={value!r}" for key, value in args.items())[:200]
        raise RecipeError(
            f"model.args: {name} cannot be built with {shown} ({type(error).__name__}: {says}); correct the values"
        ) from error


def _torchvision(
    model: str, in_chans: int, zero_init_residual: bool, pretrained: bool, args: Mapping[str, Any]
) -> Backbone:
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        raise ValueError(f"backbone torchvision/{model} does not exist{_nearest(model, names)}")
    is_resnet = models.get_model_builder(model).__module__ == "torchvision.models.resnet"
    options = {"zero_init_residual": zero_init_residual} if is_resnet else {}
    if model in _WITH_AUXILIARY_OUTPUTS and not pretrained:
        options = {"aux_logits": False, "init_weights": True}
    with _explaining(f"torchvision/{model}", args):
        module = models.get_model(model, weights="DEFAULT" if pretrained else None, **options, **args)
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


def _timm(model: str, in_chans: int, zero_init_residual: bool, pretrained: bool, args: Mapping[str, Any]) -> Backbone:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone timm/{model} needs timm: pip install timm") from error

    if not timm.is_model(model):
        raise ValueError(f"backbone timm/{model} does not exist{_nearest(model, timm.list_models())}")
    is_resnet = timm.model_entrypoint(model).__module__ == "timm.models.resnet"
    options = {"zero_init_last": zero_init_residual} if is_resnet else {}
    options |= timm_args(model, args)
    try:
        with _explaining(f"timm/{model}", args):
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
