"""Networks of the user's own: built by name or by a function, with their number of features."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import BackboneError, RecipeError
from bt_plugin.models.backbone_names import check_backbone_name
from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.own_backbone import factory_name
from bt_plugin.models.trial_forward import check_model
from tests.bt_plugin.models.own_networks import NAME, SOURCE


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a module with networks, which is found by its name."""
    (tmp_path / f"{NAME}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


@pytest.mark.parametrize("function", ["flat", "mapped"])
def test_features_are_flat_and_their_number_is_found(nets: Path, function: str) -> None:
    before = torch.random.get_rng_state()
    backbone = build_backbone(f"{NAME}:{function}", args={"width": 5})
    torch.manual_seed(0)
    plain = getattr(sys.modules[NAME], function)(width=5)
    assert backbone.feature_dim == 5
    assert list(backbone.module.state_dict()) == list(plain.state_dict())
    assert all(module.training for module in backbone.module.modules())
    assert backbone.module.state_dict()["1.num_batches_tracked"] == 0, "the pass leaves no trace"
    torch.random.set_rng_state(before)
    images = torch.randn(2, 3, 9, 9)
    expected = backbone.module[:3](images).mean((2, 3))
    torch.testing.assert_close(backbone.module(images), expected)
    torch.testing.assert_close(copy.deepcopy(backbone.module)(images), expected)


def test_the_pass_uses_no_random_numbers_and_no_memory(nets: Path) -> None:
    own: Any = import_module(NAME)
    torch.manual_seed(3)
    plain = own.mapped().state_dict()
    after = torch.rand(1)
    torch.manual_seed(3)
    built = build_backbone(f"{NAME}:mapped", size_px=100_000).module.state_dict()
    assert all(torch.equal(plain[key], built[key]) for key in plain)
    assert torch.equal(torch.rand(1), after)


def test_a_network_that_reads_values_is_run(nets: Path) -> None:
    assert build_backbone(f"{NAME}:Reads", size_px=8).feature_dim == 6


def test_the_function_gets_channels_if_it_takes_them(nets: Path) -> None:
    assert build_backbone(f"{NAME}:flat", in_chans=2).module(torch.zeros(2, 2, 9, 9)).shape == (2, 8)
    with pytest.raises(BackboneError, match=r"cannot embed images of shape \(2, 2, 224, 224\): .*\d channels"):
        build_backbone(f"{NAME}:mapped", in_chans=2)


def test_a_size_is_that_of_the_recipe(nets: Path, small_recipe: Path) -> None:
    recipe = load_recipe(small_recipe, [f"model.backbone={NAME}:Fixed", "views.both.size_px=48"])
    check_model(recipe)
    assert build_model(recipe).projector[0].in_features == 4


@pytest.mark.parametrize(
    ("function", "args", "says"),
    [
        ("number", {}, "returns a int; it must return a torch.nn.Module"),
        ("Returns", {"what": "dict"}, "its network gives a dict for 2 images; it must give one tensor of features"),
        ("Returns", {"what": "tokens"}, r"gives shape \(2, 3, 50176\) for 2 images"),
        ("Returns", {"what": "one"}, r"gives shape \(\)"),
        ("fails", {"depth": 3}, r"raised ValueError: depth 3 is odd \(.*own_nets.py:\d+\)"),
        ("flat", {"depth": 3}, r"called with 'in_chans', 'depth' \(model.args\), raised TypeError: .*depth"),
        ("fails", {}, "called without arguments"),
        ("SHARED.x", {}, "has no attribute 'x'"),
        ("SOURCE", {}, r"does not define SOURCE"),
        ("flatt", {}, f"does not define flatt; did you mean {NAME}:flat"),
    ],
)
def test_what_is_no_backbone_is_told(nets: Path, function: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises((BackboneError, RecipeError), match=f"{NAME}:{function}") as told:
        build_backbone(f"{NAME}:{function}", args=args)
    assert told.match(says)


def test_the_same_network_twice_is_told(nets: Path) -> None:
    build_backbone(f"{NAME}:shared")
    with pytest.raises(BackboneError, match="returns the same network again; it must build a new one"):
        build_backbone(f"{NAME}:shared")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import missing", "raised ModuleNotFoundError: No module named 'missing'"),
        ("x = (", "raised Syn"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(nets: Path, text: str, says: str) -> None:
    (nets / f"{NAME}.py").write_text(f"{text}\n# build")
    with pytest.raises(BackboneError, match=f"backbone {NAME}:build: importing {NAME} {says}"):
        build_backbone(f"{NAME}:build")


def test_names_of_functions() -> None:
    def inner() -> nn.Module:
        return nn.Flatten()

    assert factory_name(nn.Flatten) == "torch.nn.modules.flatten:Flatten"
    assert factory_name(partial(partial(nn.Flatten, 1), 2)) == "torch.nn.modules.flatten:Flatten"
    assert factory_name(inner).endswith("test_own_backbone:test_names_of_functions.<locals>.inner")
    with pytest.raises(RecipeError, match="pass it in Python as backbone="):
        check_backbone_name(factory_name(inner))
    with pytest.raises(RecipeError, match="pass it in Python as backbone="):
        check_backbone_name("__main__:build")
    with pytest.raises(RecipeError, match="there is no module my-script"):
        check_backbone_name("my-script:build")


def test_a_check_of_a_name_imports_nothing(tmp_path: Path) -> None:
    """Not even the packages around the module, and the current directory is searched after all else."""
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    for folder in ("mine", "mine/deep"):
        (tmp_path / folder / "__init__.py").write_text("raise SystemError('imported')")
    (tmp_path / "mine/deep/nets.py").write_text("raise SystemError('imported')\ndef build(): ...")
    program = """
import sys
from bt_plugin.models.backbone_names import check_backbone_name
sys.path = [each for each in sys.path if each]
check_backbone_name("mine.deep.nets:build")
assert sys.path[-1] == %r
wrong = {"mine.deep.nets:bild": "did you mean mine.deep.nets:build", "mine.other:x": "no module mine.other"}
for name, says in wrong.items():
    try:
        check_backbone_name(name, "--it")
    except ValueError as error:
        assert str(error).startswith("--it: ") and says in str(error), error
    else:
        raise AssertionError(name)
assert "torch" not in sys.modules, "seconds are lost"
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    subprocess.run([sys.executable, "-c", program % str(tmp_path)], check=True, cwd=tmp_path, env=environment)
