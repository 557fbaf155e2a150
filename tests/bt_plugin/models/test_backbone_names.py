"""Names of backbones are checked without the libraries, against the names that the libraries themselves have."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
from timm.models._registry import get_deprecated_models
from torchvision import models

from bt_plugin.errors import RecipeError
from bt_plugin.models.backbone_names import check_backbone_name, model_names


def test_the_names_are_the_libraries_own() -> None:
    assert model_names("torchvision") == set(models.list_models(module=models))
    assert model_names("timm") == set(timm.list_models())


def test_every_name_that_can_be_built_is_taken() -> None:
    for name in models.list_models(module=models):
        check_backbone_name(f"torchvision/{name}")
    for name in (*timm.list_models(), *timm.list_pretrained(), *get_deprecated_models()):
        assert timm.is_model(name)
        check_backbone_name(f"timm/{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "torchvision//tmp/x",
            "'torchvision//tmp/x' is not allowed; it must be torchvision/NAME, timm/NAME or module:func",
        ),
        ("torchvision/../../x", "is not allowed"),
        ("torchvision/resnet18/", "is not allowed"),
        ("torchvision/", "is not allowed"),
        ("/etc/passwd", "is not allowed"),
        ("timm/resnet18\n", r"'timm/resnet18\\n' is not allowed"),
        ("timm/\x1b[2J", r"'timm/\\x1b\[2J' is not allowed"),
        ("timm/hf-hub:a", "is not allowed"),
        ("my.module:Net", "there is no module my.module; start the command in the folder that contains my, or add"),
        ("my/module:Net", "is not allowed"),
        ("my.module:\x1b[2J", "is not allowed"),
        ("timm/resnet\u0665", "is not allowed"),
        ("x" * 100_000, r"'x{80}'\.\.\. is not allowed"),
        ("torchvision/resnet19", "does not exist in the installed torchvision; did you mean torchvision/resnet18"),
        ("torchvision/resnet18.tv_in1k", "does not exist in the installed torchvision"),
        ("torchvision/fcn_resnet50", "does not exist in the installed torchvision"),
        ("timm/zzz", r"does not exist in the installed timm; see timm\.list_models\(\)"),
        (f"timm/{'z' * 100_000}", r"timm/z{75} does not exist"),
    ],
)
def test_others_are_refused(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refused:
        check_backbone_name(name, "--it")
    assert str(refused.value).startswith("--it: ")
    assert len(str(refused.value)) < 300


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bt_plugin.models.backbone_names.model_names", lambda library: frozenset())
    with pytest.raises(RecipeError, match="timm/resnet18 needs timm: pip install timm"):
        check_backbone_name("timm/resnet18")


@pytest.mark.parametrize(
    "command",
    [
        ["import", "a.pth", "--backbone", "timm/resnet5"],
        ["import", "a.pth", "-o", "/dev/null/x"],
        ["export", ".", "--to", "onnx"],
    ],
)
def test_the_commands_answer_before_torch_is_imported(command: list[str]) -> None:
    program = f"""
import sys
from bt_plugin.cli import main
assert main({command!r}) == 2
assert "torch" not in sys.modules, "seconds are lost"
assert "timm" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
