"""The recipe's section `model`: the network, and the weights that it starts from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from bt_plugin.config.section import PathText, Section

Widths = Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(min_length=1, max_length=32)]
ActivationCheckpointing = Literal["none", "blocks", "full"]


class Model(Section):
    """The network: a backbone, and a projector of fully connected layers."""

    backbone: Annotated[str, Field(max_length=200)] = "torchvision/resnet50"
    """Name of the backbone: `torchvision/NAME`, `timm/NAME`, or `module.path:function` for a network of your own
    ([backbones](backbones.md)). Such a function is imported."""
    args: dict[str, Any] = {}
    """Further arguments of the backbone's constructor or function, such as `{drop_path_rate: 0.1}`."""
    backbone_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Hash of the file with the function of `model.backbone`. The run writes it into its recipe.yaml. If it is set,
    another source is refused."""
    stem: Literal["standard", "small"] = "standard"
    """First layers of a ResNet. `small` is a 3x3 convolution of stride 1 without max-pooling, for views of 64 px or
    less."""
    in_chans: Annotated[int, Field(ge=1, le=1024)] = 3
    """Channels of the views. With 1, color images are converted to gray. With a number other than 1 and 3, the images
    must have that number of channels."""
    zero_init_residual: bool = True
    """Whether the last BatchNorm weight of each residual branch of a ResNet starts at zero."""
    init: PathText | None = None
    """Weights to start from: a run's directory, an export, or a file of torchvision, timm, the official code, Lightly
    or solo-learn. `torchvision` and `timm` are the library's own weights of `model.backbone`, which are downloaded.
    `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`: weights of a repository of the Hugging Face Hub. `null`: random
    weights. Not read again when the run resumes."""
    init_projector: Literal["auto", "never"] = "auto"
    """Whether the projector starts from the weights in `model.init`, if they have one of the same widths."""
    init_strict: bool = True
    """Whether every tensor of the backbone must be in `model.init`. With `false`, those that fit are used."""
    init_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Hash of the tensors that the run started from. The run writes it into its recipe.yaml. If it is set, other
    weights are refused."""
    projector: Widths = [8192, 8192, 8192]
    """Output widths of the projector's layers. The last is D, the dimension of the embeddings."""
    activation_checkpointing: ActivationCheckpointing = "none"
    """Which activations of the backbone are recomputed in the backward pass, to save memory. `blocks`: those inside
    each of its repeated blocks. `full`: all, one view after the other. The gradient stays the same."""
