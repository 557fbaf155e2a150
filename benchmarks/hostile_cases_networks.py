"""Try networks that cannot take the views, and unknown names of networks (D6, E)."""

from __future__ import annotations

from hostile_cases import Place, Try, tries
from hostile_cases_recipes import check
from hostile_cases_verdicts import accepted, helpful, raises, refused, right

_NETWORKS: dict[str, tuple[str, int, int]] = {
    "a small ViT": ("timm/vit_tiny_patch16_224", 48, 3),
    "a ViT of torchvision": ("torchvision/vit_b_16", 48, 3),
    "a Swin": ("timm/swin_tiny_patch4_window7_224", 64, 3),
    "a Swin of torchvision": ("torchvision/swin_t", 64, 3),
    "a MaxViT": ("torchvision/maxvit_t", 64, 3),
    "an MLP-Mixer": ("timm/mixer_s32_224", 96, 3),
    "a DeiT": ("timm/deit_tiny_patch16_224", 96, 3),
    "a BEiT": ("timm/beit_base_patch16_224", 64, 3),
    "a CaiT": ("timm/cait_xxs24_224", 64, 3),
    "a LeViT": ("timm/levit_128s", 64, 3),
    "a PiT": ("timm/pit_ti_224", 64, 3),
    "a gMLP": ("timm/gmlp_ti16_224", 64, 3),
    "a CoAtNet": ("timm/coatnet_nano_rw_224", 64, 3),
    "GoogLeNet": ("torchvision/googlenet", 32, 3),
    "Inception at 32 px": ("torchvision/inception_v3", 32, 3),
    "Inception at 96 px": ("torchvision/inception_v3", 96, 3),
    "AlexNet at 16 px": ("torchvision/alexnet", 16, 3),
    "VGG at 16 px": ("torchvision/vgg11", 16, 3),
    "DenseNet at 16 px": ("torchvision/densenet121", 16, 3),
    "SqueezeNet at 8 px": ("torchvision/squeezenet1_1", 8, 3),
    "a ViT of five channels": ("torchvision/vit_b_16", 224, 5),
    "a detector": ("torchvision/fasterrcnn_mobilenet_v3_large_fpn", 64, 3),
    "a segmenter": ("torchvision/deeplabv3_mobilenet_v3_large", 64, 3),
    "a network of videos": ("torchvision/r3d_18", 64, 3),
    "a network of optical flow": ("torchvision/raft_small", 128, 3),
    "a ResNet, which is right": ("torchvision/resnet18", 48, 3),
    "a ViT at its size, which is right": ("timm/vit_tiny_patch16_224", 224, 3),
    "a ConvNeXt, which is right": ("timm/convnext_atto", 64, 3),
    "ResNet of five channels, which is right": ("torchvision/resnet18", 64, 5),
}


def _network(place: Place, name: str, size: int, channels: int) -> None:
    """Check a network. It must be accepted if and only if it can embed the views; a refusal must not start a run."""

    def embeds() -> bool:
        import torch

        from bt_plugin import build_backbone

        try:
            module, dim = build_backbone(name, in_chans=channels)
            with torch.no_grad():
                return tuple(module.train()(torch.zeros(2, channels, size, size)).shape) == (2, dim)
        except Exception:  # any error means that it cannot embed the views
            return False

    result = place.call(embeds, 60)
    fits = not raises(result) and result.value is True
    values = "[" + ", ".join(["0.5"] * channels) + "]"
    changes = [f"model.backbone={name}", f"views.both.size_px={size}", f"model.in_chans={channels}"]
    changes += [f"views.both.mean={values}", f"views.both.std={values}"]
    changes += [f"views.both.{key}=0" for key in ("jitter_p", "gray_p")]
    if fits:
        accepted(check(place, *changes, limit=60))
        return
    refused(check(place, *changes, limit=60), "model.backbone")
    if channels == 3:
        result = place.bt("pretrain", place.recipe, *changes, "run.output_dir=run")
        refused(result, "model.backbone")
        right(not (place.folder / "run").exists(), "a run was started")
        result = place.bt("doctor", place.recipe, *changes, "run.output_dir=run")
        right("error" in result.out and result.code == 1, f"doctor finds nothing: {result.out[-200:]}")


def _fast(place: Place, name: str) -> None:
    """Use a wrong name. It must be reported before torch is imported."""
    result = place.bt("check", place.recipe, f"model.backbone={name}", new=True)
    refused(result, "model.backbone")
    helpful(result.seconds < 5, f"after {result.seconds:.1f} s")


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    names = ("torchvision/resnet51", "timm/vit_tinny_patch16_224", "my.module:Net", "resnet50", "torchvision/ResNet50")
    return tries("D6", _NETWORKS, _network) + tries("E", {f"the network {name}": name for name in names}, _fast)
