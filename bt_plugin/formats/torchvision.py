"""Write a state dict, in the format of torch.save, for a model of torchvision."""

from __future__ import annotations

from pathlib import Path

from bt_plugin.formats.exported import Exported
from bt_plugin.formats.libraries import as_model_of, write_state

SUFFIX = "_torchvision.pth"


def write(exported: Exported, path: Path) -> None:
    """Write the backbone in torchvision's own keys, without those of the classifier.

    Raises:
        WeightsError: If torchvision has no such model.
    """
    write_state(dict(as_model_of("torchvision", exported).state_dict()), path)


def usage(exported: Exported, path: Path) -> str:
    """Return the code with which torchvision loads it."""
    args = exported.args if exported.backbone_name.startswith("torchvision/") else {}
    options = ", ".join(f"{key}={value!r}" for key, value in args.items())
    return (
        f"model = torchvision.models.{exported.architecture}({options})\n"
        f"model.load_state_dict(torch.load({str(path)!r}), strict=False)  # without the classifier"
    )
