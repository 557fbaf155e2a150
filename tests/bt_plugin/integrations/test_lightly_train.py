"""Barlow Twins under LightlyTrain."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from bt_plugin import LARS, BarlowTwinsLoss, register
from bt_plugin.errors import HostError
from dali_pipelines import PRESETS
from tests.conftest import REPOSITORY

os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"
# It says so where it is not there: the extra is not a requirement.
lightly_train = pytest.importorskip("lightly_train", reason="lightly-train is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS: dict[str, Any] = {
    "model": "torchvision/resnet18",
    "method": "barlowtwins",
    "method_args": {"hidden_dim": 32, "output_dim": 32},
    "transform_args": {"image_size": (32, 32)},
    "optim_args": {"lr": 2.0, "lr_biases": 0.1},
    "batch_size": 12,
    "epochs": 2,
    "num_workers": 1,
    "accelerator": "cpu",
    "devices": 1,
    "precision": "32",
}


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


def pretrain(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """The last checkpoint."""
    lightly_train.pretrain(out=str(out), data=str(data / "train"), **{**OPTIONS, **changes})
    checkpoint: dict[str, Any] = torch.load(out / "checkpoints" / "last.ckpt", weights_only=False)
    return checkpoint


def test_it_stands_among_the_methods() -> None:
    register()
    assert lightly_train.list_methods().count("barlowtwins") == 1
    assert "simclr" in lightly_train.list_methods()


def test_it_trains_resumes_and_exports(small_data: Path, tmp_path: Path) -> None:
    first = pretrain(small_data, tmp_path, epochs=1)
    last = pretrain(small_data, tmp_path, resume_interrupted=True)
    assert (first["global_step"], last["global_step"]) == (3, 6)
    assert any(not torch.equal(value, last["state_dict"][name]) for name, value in first["state_dict"].items())
    exported = torch.load(tmp_path / "exported_models" / "exported_last.pt", weights_only=True)
    network = torchvision.models.resnet18()
    assert network.load_state_dict(exported, strict=False).missing_keys in ([], ["fc.weight", "fc.bias"])
    (trained,) = (value for name, value in last["state_dict"].items() if value.shape == network.conv1.weight.shape)
    assert torch.equal(network.conv1.weight, trained)


def test_its_views_may_be_ours(small_data: Path, tmp_path: Path) -> None:
    """Then a checkpoint has the loader's state, and training resumes from it."""
    register(dali=True)
    checkpoint = pretrain(small_data, tmp_path, epochs=1)
    ((state,),) = [
        part["combined_loader"] for part in checkpoint["loops"]["fit_loop"].values() if "combined_loader" in part
    ]
    assert (state["epoch"], state["step"], state["n_samples"]) == (1, 0, 36)
    assert pretrain(small_data, tmp_path, resume_interrupted=True)["global_step"] == 6


def test_ours_are_the_views_that_transform_args_describe() -> None:
    from bt_plugin.integrations.lightly_train_loader import preset
    from bt_plugin.integrations.lightly_train_method import BarlowTwinsTransformArgs

    def resolved(**changes: Any) -> Any:
        args = BarlowTwinsTransformArgs(**changes)
        args.resolve_auto()
        return args

    assert preset(resolved()) == PRESETS["barlow_twins"]
    view_a, view_b = preset(
        resolved(
            image_size=(64, 64),
            random_resize={"min_scale": 0.2},
            color_jitter={"strength": 0.5},
            random_flip={"horizontal_prob": 0.25, "vertical_prob": 0.75},
            random_gray_scale=None,
            gaussian_blur=None,
            global_view_1={"solarize": {"prob": 0.3}},
        )
    ).views
    assert (view_a.size_px, view_a.crop_scale, view_a.brightness, view_a.hue) == (64, (0.2, 1.0), 0.2, 0.05)
    assert (view_a.flip_p, view_a.flip_v_p, view_b.flip_v_p, view_a.rot90_p) == (0.25, 0.75, 0.75, 0)
    assert (view_a.gray_p, view_a.blur_p, view_b.blur_p, view_b.solarize_p) == (0, 0, 0.1, 0.3)
    for changes, named in (
        ({"image_size": (32, 64)}, r"image_size: \(32, 64\).* must be a square"),
        ({"random_rotation": {"prob": 1.0, "degrees": 90}}, "random_rotation: .* must be None"),
        ({"solarize": {"prob": 1.0, "threshold": 0.3}}, "a threshold of 0.3"),
    ):
        with pytest.raises(ValueError, match=named):
            preset(resolved(**changes))


def test_the_loss_is_of_two_separate_passes() -> None:
    from bt_plugin.integrations.lightly_train_method import BarlowTwins, BarlowTwinsArgs, BarlowTwinsLARSArgs

    embedding: Any = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.BatchNorm1d(8))
    embedding.embed_dim = 8
    args = BarlowTwinsArgs(hidden_dim=16, output_dim=8)
    method = BarlowTwins(args, BarlowTwinsLARSArgs(), embedding, global_batch_size=6, num_input_channels=3).double()
    images = torch.randn(2, 6, 3, 2, 2, dtype=torch.float64)
    views = [images[0], 2 + images[1]]
    loss = method.training_step_impl({"views": views}, 0).loss
    torch.testing.assert_close(loss, BarlowTwinsLoss(5.1e-3)(*(method.projector(embedding(view)) for view in views)))
    assert method.criterion.gather_distributed, "and of all ranks"


def test_rates_are_the_official_ones() -> None:
    """Of true gradients, by the global batch; biases and norms neither adapt nor decay."""
    from lightly_train._optim import optimizer_helpers

    from bt_plugin.integrations.lightly_train_method import BarlowTwins, BarlowTwinsLARSArgs

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    args = BarlowTwins.optimizer_args_cls("auto")()
    assert isinstance(args, BarlowTwinsLARSArgs)
    modules = optimizer_helpers.TrainableModules(modules=[model])
    optimizer = optimizer_helpers.get_optimizer(args, modules, lr_scale=2.0)
    assert isinstance(optimizer, LARS)
    weights, biases = optimizer.param_groups
    assert [len(group["params"]) for group in (weights, biases)] == [1, 3]
    assert (weights["lr"], weights["weight_decay"], weights["adapt"]) == (0.4, 1.6e-5, True)
    assert (biases["lr"], biases["weight_decay"], biases["adapt"]) == (0.0006, 0.0, False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method_args": {"lambda_parm": 0.1}}, "lambda_parm"),
        ({"method_args": {"lambda_param": -1.0}}, "lambda_param"),
        ({"optim_args": {"lr_bias": 0.1}}, "lr_bias"),
        ({"transform_args": {"local_view": {"num_views": 2}}}, "local_view"),
    ],
)
def test_bad_arguments_are_answered_by_lightly_train(
    small_data: Path, tmp_path: Path, arguments: dict[str, Any], named: str
) -> None:
    from lightly_train.errors import ConfigValidationError

    with pytest.raises(ConfigValidationError, match=named):
        pretrain(small_data, tmp_path, **arguments)


def test_a_version_that_was_not_tried_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "0.99.0")
    register()
    assert "LightlyTrain 0.99.0 was not tested" in caplog.text
    assert "0.14.3, 0.16.4, 0.17.0 and 0.18.0" in caplog.text


@pytest.mark.parametrize(
    "hook", ["_methods.method_helpers._method_name_to_cls", "_commands.train_helpers.get_dataloader"]
)
def test_a_version_without_a_place_for_it_is_refused(monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
    monkeypatch.delattr(f"lightly_train.{hook}")
    with pytest.raises(
        HostError, match=r"lacks the functions that register\(\) replaces: .*Known to work are 0\.14\.3"
    ):
        register()


def test_a_method_of_the_same_name_is_replaced_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from bt_plugin.integrations.lightly_train_method import BarlowTwins

    helpers = "lightly_train._methods.method_helpers"
    monkeypatch.setattr(f"{helpers}._method_name_to_cls", lambda: {"barlowtwins": None})
    register()
    assert "already has a method barlowtwins; bt-plugin's replaces it" in caplog.text
    assert sys.modules[helpers].get_method_cls("barlowtwins") is BarlowTwins


@pytest.mark.distributed
@pytest.mark.slow
def test_its_command_line_on_two_ranks(small_data: Path, tmp_path: Path) -> None:
    """Lightning starts the second by the same command, which registers there too."""
    program = "from bt_plugin.integrations.lightly_train import main; main()"
    script = tmp_path / "bt-plugin-lightly-train"
    script.write_text(program)
    options = ["method_args.hidden_dim=32", "method_args.output_dim=32", "transform_args.image_size=[32,32]"]
    changes = {**OPTIONS, "out": tmp_path / "out", "data": small_data / "train", "devices": 2, "strategy": "ddp"}
    options += [f"{key}={value}" for key, value in changes.items() if not isinstance(value, dict)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DALI": "1"}
    command = [sys.executable, str(script), "pretrain", *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    checkpoint = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=False)
    assert checkpoint["global_step"] == 6
