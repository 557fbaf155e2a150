"""Checkpoints in the layouts of others, made by their own modules where those are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightly.models.modules import BarlowTwinsProjectionHead
from lightly.utils.benchmarking import OnlineLinearClassifier
from torch import Tensor, nn
from torchvision import models

from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.barlow_twins import build_projector
from bt_plugin.weights.weights import Weights

IMAGES = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def randomised(module: nn.Module) -> nn.Module:
    """With BatchNorms that have seen data, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.ndim == 1:
            low = 0.5 if name.endswith(("weight", "running_var")) else -0.5
            value.copy_(low + torch.rand(value.shape, generator=generator))
    return module.eval()


def resnet(name: str = "resnet18", small: bool = False, in_chans: int = 3) -> nn.Module:
    module = models.get_model(name, weights=None)
    module.fc = nn.Identity()
    if small:
        module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    if in_chans != 3:
        module.conv1 = nn.Conv2d(in_chans, 64, 7, 2, 3, bias=False)
    return randomised(module)


class Network(nn.Module):
    """Whatever parts, under their names."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def linears(widths: list[int], bias: bool) -> nn.Sequential:
    a, b, c, d = widths
    layers = [nn.Linear(a, b, bias=bias), nn.BatchNorm1d(b), nn.ReLU()]
    layers += [nn.Linear(b, c, bias=bias), nn.BatchNorm1d(c), nn.ReLU(), nn.Linear(c, d, bias=bias)]
    return nn.Sequential(*layers)


def in_children(module: nn.Module) -> nn.Sequential:
    return nn.Sequential(*list(module.children())[:-1])


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def lightning_checkpoint(network: nn.Module, path: Path, **hyper_parameters: Any) -> Path:
    """As Lightning's Trainer writes it."""
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self, **hyper_parameters: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            for name, part in network.named_children():
                setattr(self, name, part)

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", **options)
    trainer.strategy.connect(Module(**hyper_parameters))
    trainer.save_checkpoint(path)
    return path


def features_of(weights: Weights, images: Tensor = IMAGES) -> Tensor:
    module = build_backbone(weights.backbone_name, stem=weights.stem, in_chans=weights.in_chans).module
    module.load_state_dict(weights.backbone)
    with torch.no_grad():
        return module.eval()(images)


def embeddings_of(weights: Weights, features: Tensor) -> Tensor:
    assert weights.projector is not None
    widths = [value.shape[0] for value in weights.projector.values() if value.ndim == 2]
    module = build_projector(features.shape[1], widths)
    module.load_state_dict(weights.projector)
    with torch.no_grad():
        return module.eval()(features)


def official(path: Path) -> tuple[Path, nn.Module]:
    parts = {"backbone": resnet(), "projector": linears([512, 24, 16, 8], bias=False)}
    network = randomised(Network(**parts, bn=nn.BatchNorm1d(8, affine=False)))
    # DataParallel names its keys as DistributedDataParallel does.
    state = nn.DataParallel(network).state_dict()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    return saved({"epoch": 3, "model": state, "optimizer": optimizer.state_dict()}, path / "checkpoint.pth"), network


def lightly(path: Path) -> tuple[Path, nn.Module]:
    network = randomised(Network(backbone=in_children(resnet()), projection_head=BarlowTwinsProjectionHead(512, 24, 8)))
    return saved(network.state_dict(), path / "model.pt"), network


def lightly_compiled(path: Path) -> tuple[Path, nn.Module]:
    network = randomised(Network(backbone=resnet(), projection_head=BarlowTwinsProjectionHead(512, 24, 8)))
    compiled = Network(backbone=torch.compile(network.backbone), projection_head=network.projection_head)
    return saved({"state_dict": compiled.state_dict()}, path / "model.pt"), network


def lightly_old(path: Path) -> tuple[Path, nn.Module]:
    network = randomised(Network(backbone=in_children(resnet()), projection_mlp=BarlowTwinsProjectionHead(512, 24, 8)))
    return saved(network.state_dict(), path / "model.pt"), network


def lightly_lightning(path: Path) -> tuple[Path, nn.Module]:
    network = randomised(
        Network(backbone=in_children(resnet(small=True)), projection_head=BarlowTwinsProjectionHead(512, 24, 8))
    )
    return lightning_checkpoint(network, path / "last.ckpt"), network


def lightly_benchmark(path: Path) -> tuple[Path, nn.Module]:
    parts = {"backbone": resnet(), "projection_head": BarlowTwinsProjectionHead(512, 24, 8)}
    network = randomised(Network(**parts, online_classifier=OnlineLinearClassifier(feature_dim=512, num_classes=3)))
    return lightning_checkpoint(network, path / "last.ckpt", batch_size_per_device=4, num_classes=3), network


def solo_learn(path: Path) -> tuple[Path, nn.Module]:
    parts = {"backbone": resnet(), "projector": linears([512, 24, 16, 8], bias=True), "classifier": nn.Linear(512, 3)}
    network = randomised(Network(**parts))
    return saved({"epoch": 3, "state_dict": network.state_dict()}, path / "solo.ckpt"), network


def solo_learn_old(path: Path) -> tuple[Path, nn.Module]:
    _, network = solo_learn(path)
    state = {key.replace("backbone.", "encoder."): value for key, value in network.state_dict().items()}
    return saved({"state_dict": state}, path / "solo.ckpt"), network


def under(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in module.state_dict().items()}


def other(name: str = "resnet18") -> nn.Module:
    """Another network of the same layers, such as a momentum encoder; the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return resnet(name)


def moco(path: Path) -> tuple[Path, nn.Module]:
    """As facebookresearch/moco main_moco.py writes it; v2 has two layers under fc."""
    network = resnet()
    head = {"module.encoder_q.fc.0.weight": torch.ones(4, 512), "module.encoder_q.fc.2.weight": torch.ones(2, 4)}
    state = under("module.encoder_q.", network) | head | under("module.encoder_k.", other())
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 3, "arch": "resnet18", "state_dict": state | {"module.queue": torch.ones(2, 9)}}
    return saved(content | {"optimizer": optimizer}, path / "checkpoint_0003.pth.tar"), network


def moco_v3(path: Path) -> tuple[Path, nn.Module]:
    network = resnet()
    state = under("module.momentum_encoder.", other()) | under("module.base_encoder.", network)
    return saved({"state_dict": state | {"module.predictor.0.weight": torch.ones(2, 2)}}, path / "v3.pth.tar"), network


def vissl(path: Path) -> tuple[Path, nn.Module]:
    network = resnet()
    model = {"trunk": under("_feature_blocks.", network), "heads": {"0.clf.0.weight": torch.ones(2, 512)}}
    content = {"phase_idx": 9, "classy_state_dict": {"base_model": {"model": model}, "optim": {"state": {1: {}}}}}
    return saved(content, path / "model_final_checkpoint_phase9.torch"), network


def dino(path: Path) -> tuple[Path, nn.Module]:
    """As facebookresearch/dino main_dino.py writes it, without the arguments."""
    network = resnet()
    head = {"module.head.mlp.0.weight": torch.ones(2, 512)}
    student, teacher = (under("module.backbone.", module) | head for module in (other(), network))
    return saved({"student": student, "teacher": teacher, "epoch": 3}, path / "checkpoint.pth"), network


def byol(path: Path) -> tuple[Path, nn.Module]:
    """As lucidrains/byol-pytorch has it: the network stands in it twice."""
    network = resnet()
    state = under("target_encoder.net.", other()) | under("net.", network) | under("online_encoder.net.", network)
    return saved(state, path / "byol.pt"), network


def swav(path: Path) -> tuple[Path, nn.Module]:
    network = resnet()
    heads = {"module.projection_head.0.weight": torch.ones(2, 512), "module.prototypes.weight": torch.ones(3, 2)}
    return saved(under("module.", network) | heads, path / "swav.pth.tar"), network


def lightly_dino(path: Path) -> tuple[Path, nn.Module]:
    """As Lightly's example of DINO names its parts, cut into nn.Sequential."""
    network = resnet()
    state = under("student_backbone.", in_children(other())) | under("teacher_backbone.", in_children(network))
    return saved({"state_dict": state}, path / "last.ckpt"), network


def lightly_train(path: Path) -> tuple[Path, nn.Module]:
    """As LightlyTrain's own wrapper names the layers in its checkpoints, without the whole networks next to them."""
    from lightly_train._models import package_helpers
    from lightly_train._models.embedding_model import EmbeddingModel

    network = randomised(models.resnet18())
    wrapped = EmbeddingModel(wrapped_model=package_helpers.get_wrapped_model(model=network, num_input_channels=3))
    network.fc = nn.Identity()
    state = under("embedding_model.", wrapped) | {"projection_head.layers.0.weight": torch.ones(2, 512)}
    return saved({"epoch": 3, "state_dict": state}, path / "last.ckpt"), network


def vision_language(path: Path) -> tuple[Path, nn.Module]:
    network = resnet()
    state = under("model.visual.", network) | {"model.text.weight": torch.ones(3)}
    return saved({"state_dict": state}, path / "clip.pt"), network
