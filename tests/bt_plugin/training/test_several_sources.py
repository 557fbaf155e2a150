"""A run on several sources with weights, by the command line: its epochs, its resume, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file

from bt_plugin.cli import main
from tests.conftest import SMALL_RECIPE
from tests.tar_files import write_shard

pytestmark = pytest.mark.slow

# Of 12 images each: 12 + 18 + 6 an epoch.
WEIGHTS = "data.weights=[1, 1.5, 0.5]"


@pytest.fixture(scope="module")
def place(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders and a shard with the training images of small_data, and a recipe of two epochs on them."""
    root = tmp_path_factory.mktemp("several")
    for folder, name in (("a", "chelsea"), ("b", "coffee")):
        (root / folder).mkdir()
        (root / folder / name).symlink_to(small_data / "train" / name)
    members = {}
    for file in sorted((small_data / "train" / "rocket").iterdir()):
        members |= {file.name: file.read_bytes(), f"{file.stem}.cls": b"rocket"}
    write_shard(root / "c.tar", members)
    recipe = SMALL_RECIPE.format(data=small_data, output_dir=root / "run").replace("epochs: 3", "epochs: 2")
    train = f"[{root}/a, {root}/b, '{root}/c.tar']"
    (root / "small.yaml").write_text(recipe.replace(f"train: {small_data}/train", f"train: {train}"))
    return root


def bt(*arguments: str) -> int:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    return main([*arguments])


def pretrain(place: Path, run: str, *overrides: str) -> int:
    return bt("pretrain", str(place / "small.yaml"), WEIGHTS, f"run.output_dir={place}/{run}", *overrides)


@pytest.fixture(scope="module")
def runs(place: Path) -> tuple[Path, Path]:
    """A run without a stop, and one that was stopped in its second epoch and resumed."""
    assert pretrain(place, "whole") == 0
    assert pretrain(place, "stopped", "run.max_steps=6", "eval.knn=false") == 0
    assert pretrain(place, "stopped", "eval.knn=false") == 0
    return place / "whole", place / "stopped"


def learning(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_s", "data_wait")} for line in lines]


def test_a_resumed_run_is_the_uninterrupted_one(runs: tuple[Path, Path]) -> None:
    whole, stopped = runs
    lines = learning(whole)
    assert [line["epoch"] for line in lines] == [0] * 4 + [1] * 4, "36 images an epoch, 8 a step"
    assert learning(stopped) == lines
    for name in ("backbone", "projector"):
        ours, theirs = (load_file(run / "export" / f"{name}.safetensors") for run in (stopped, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert set(summary["knn_top1"]) == {"raw", "untrained", "calibrated", "pretrained"}, "classes of all sources"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.weights=[1, 1.5, 1]", "data.weights was [1.0, 1.5, 0.5] and is now [1.0, 1.5, 1.0]"),
        ("data.weights=null", "data.weights was [1.0, 1.5, 0.5] and is now None"),
        ("data.train=[{0}/b, {0}/a, '{0}/c.tar']", "and of the order of the sources (source) was"),
        ("data.train=[{0}/a, {0}/b, {0}/b]", "and of the order of the sources (source) was"),
    ],
)
def test_another_order_or_weight_does_not_resume(
    runs: tuple[Path, Path], place: Path, capsys: pytest.CaptureFixture[str], override: str, named: str
) -> None:
    assert pretrain(place, "stopped", override.format(place)) == 2
    assert named in capsys.readouterr().err


def test_a_moved_source_resumes(runs: tuple[Path, Path], place: Path) -> None:
    (place / "moved").symlink_to(place / "b")
    assert pretrain(place, "stopped", f"data.train=[{place}/a, {place}/moved, '{place}/c.tar']", "eval.knn=false") == 0


def test_what_counts_images_counts_those_of_an_epoch(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(place / "small.yaml")
    fresh = f"run.output_dir={tmp_path}/run"
    assert bt("check", recipe, fresh, "data.weights=[2, 1, 0.5]") == 0
    assert "# 42 images an epoch, by data.weights: 5 steps an epoch, 10 steps in all" in capsys.readouterr().out
    assert bt("check", recipe, fresh) == 0
    assert "# 36 images: 4 steps" in capsys.readouterr().out
    few = "data.weights=[0.2, 0.1, 0.1]"
    assert bt("doctor", recipe, fresh, "data.weights=[2, 1, 0.5]") in (0, 1)
    output = capsys.readouterr().out
    assert "data.train: 36 images, 3 classes" in output
    assert "5 steps per epoch" in output
    for command in (["check"], ["pretrain"], ["bench", "--seconds", "1"], ["preview", "-o", f"{tmp_path}/a.png"]):
        assert bt(command[0], recipe, fresh, few, *command[1:]) == 2
        assert f"8 is more than the 4 images an epoch of data.train [{place}/a, {place}/b," in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_evaluations_use_every_image_once(
    runs: tuple[Path, Path], place: Path, small_data: Path, tmp_path: Path
) -> None:
    run = str(runs[0])
    assert bt("knn", run, f"run.output_dir={tmp_path}") == 0
    (file,) = tmp_path.glob("knn-*.json")
    result = json.loads(file.read_text())
    assert result["data"]["train"] == [f"{place}/a", f"{place}/b", f"{place}/c.tar"]
    plain = ("data.train", f"{small_data}/train")
    assert bt("knn", run, "=".join(plain), f"run.output_dir={tmp_path}/plain") == 0
    (file,) = (tmp_path / "plain").glob("knn-*.json")
    assert result["top1"] == json.loads(file.read_text())["top1"]
    features = str(tmp_path / "features.npz")
    assert bt("embed", run, f"[{place}/a, {place}/b]", "-o", features) == 0
    assert [name[:2] for name in np.load(features)["names"]] == ["0/"] * 12 + ["1/"] * 12
    short = ("linear.epochs=1", "linear.global_batch_size=36")
    assert bt("linear", run, *short, "data.weights=[1, 2, 3]", f"run.output_dir={tmp_path}/linear") == 0
    assert len(list((tmp_path / "linear").glob("linear-*.json"))) == 1
