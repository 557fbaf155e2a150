"""Evaluations as users run them: the same numbers on one rank and two, kept in a file that says how they came."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState, PartialState
from pyarrow import parquet

from bt_plugin.cli import main
from tests.conftest import REPOSITORY
from tests.forks import run_forked
from tests.test_launch import ACCELERATE, CPU_2PROC

# Eleven images: two ranks do not have as many of them.
VIEW = ["view.size_px=32", "view.resize_px=36", "run.device=cpu", "data.num_threads=1"]


@pytest.fixture
def odd(small_data: Path, tmp_path: Path) -> list[str]:
    lines = [f"{path.relative_to(small_data)},{path.parent.name}" for path in sorted(small_data.glob("val/*/*"))]
    file = tmp_path / "odd.csv"
    file.write_text("path,label\n" + "\n".join(f"{small_data}/{line}" for line in lines[:11]) + "\n")
    return [f"data.train={small_data}/train", f"data.val={file}", *VIEW]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


EVALUATIONS = {
    "knn": ["knn", "knn.k=5"],
    "linear": ["linear", "linear.epochs=2", "linear.global_batch_size=12", "linear.lr_classifier=0.01"],
    "cached": ["linear", "linear.epochs=5", "linear.global_batch_size=12", "linear.cached=true"],
    "finetune": ["finetune", "finetune.epochs=1", "finetune.global_batch_size=6", "finetune.fraction=0.5"],
}


def evaluate_all(folder: str, ports: str, *data: str) -> None:
    """Evaluate as one rank, or as one of two that meet at a port of their own for each evaluation."""
    for port, (name, (method, *options)) in zip(ports.split(), EVALUATIONS.items()):
        if "RANK" in os.environ:
            os.environ["MASTER_PORT"] = port
        AcceleratorState._reset_state()
        PartialState._reset_state()
        code = main([method, "torchvision/resnet18", *data, *options, f"run.output_dir={folder}/{name}"])
        assert code == 0
    if "RANK" in os.environ:
        # The store at an address that is met at again still has the addresses of the ranks of the ended group.
        with redirect_stderr(StringIO()) as told:
            assert main(["knn", "torchvision/resnet18", *data, f"run.output_dir={folder}/again"]) == 2
        assert f"the group of ranks at 127.0.0.1:{port} has ended" in told.getvalue()


@pytest.mark.slow
@pytest.mark.distributed
def test_one_rank_and_two(odd: list[str], tmp_path: Path) -> None:
    for world_size in (1, 2):
        ports = " ".join(map(str, free_ports(len(EVALUATIONS))))
        done = run_forked(world_size, "tests.test_evaluation", f"{tmp_path}/{world_size}", ports, *odd)
        assert done.returncode == 0, done.stderr
    for name, (method, option, *_) in EVALUATIONS.items():
        files = [file for world_size in (1, 2) for file in (tmp_path / str(world_size) / name).iterdir()]
        assert len(files) == 2, "rank 0 alone writes, and no checkpoint is left"
        one, two = (json.loads(file.read_text()) for file in files)
        assert (one["images"], two["images"]) == (11, 11)
        assert (one["world_size"], two["world_size"]) == (1, 2)
        # BatchNorm's statistics are a rank's own on a CPU, and fine-tuning depends on them.
        if method != "finetune":
            assert [one["top1"], one["top5"]] == [two["top1"], two["top5"]], name
        assert one["top1_interval"][0] < one["top1"] <= one["top5"] == 1
        key, value = option.split(".")[1].split("=")
        assert one["protocol"][method][key] == int(value)
        assert one["versions"]["bt-plugin"]


@pytest.mark.distributed
def test_the_launcher_evaluates_too(odd: list[str], tmp_path: Path) -> None:
    command = [*ACCELERATE, *CPU_2PROC, "-m", "bt_plugin", "knn", "torchvision/resnet18", *odd]
    result = subprocess.run(
        [*command, f"run.output_dir={tmp_path}/out"], capture_output=True, text=True, cwd=REPOSITORY, timeout=200
    )
    assert result.returncode == 0, result.stderr
    (file,) = (tmp_path / "out").iterdir()
    assert result.stdout.count(f"result  {file}") == 1, "rank 0 alone speaks"
    assert "bt-plugin knn torchvision/resnet18 data.train=" in json.loads(file.read_text())["command"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["linear", "torchvision/resnet18"], "data: is missing"),
        (["linear", "torchvision/resnet18", "data.train=x", "data.val=y", "linear.epoch=3"], "did you mean epochs?"),
        (["knn", "torchvision/resnet18", "data.train=nowhere", "data.val=nowhere"], "data.train: "),
        (["knn", "torchvision/resnet18", "a.yaml", "b.yaml"], "a.yaml b.yaml: only one recipe is allowed"),
        (["knn", "torchvision/resnet18", "data.train=x", "data.val=y", "view.resize_px=3"], "view.resize_px: 3 "),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_images_without_classes_are_refused(small_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = small_data / "train" / "chelsea"
    assert main(["knn", "torchvision/resnet18", f"data.train={flat}", f"data.val={flat}"]) == 2
    assert "data.train: the images of" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_embeddings_lie_beside_their_names(small_data: Path, tmp_path: Path, suffix: str) -> None:
    """And so they do without labels, for which nothing is asked."""
    output = tmp_path / f"out.{suffix}"
    command = ["embed", "torchvision/resnet18", str(small_data / "val"), "-o", str(output), *VIEW]
    assert main(command) == 0
    if suffix == "npz":
        content = np.load(output)
        names, values = content["names"].tolist(), content["features"]
        assert content["classes"][content["labels"]].tolist() == [name.split("/")[0] for name in names]
    else:
        rows = parquet.read_table(output).to_pydict()
        names, values = rows["name"], np.array(rows["features"], dtype=np.float32)
        assert rows["label"] == [name.split("/")[0] for name in names]
    assert values.shape == (12, 512)
    assert len(set(names)) == 12
    assert main(["embed", "torchvision/resnet18", str(small_data / "val"), "-o", str(tmp_path / "2.npz"), *VIEW]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "2.npz")["features"], values)

    flat = small_data / "val" / "chelsea"
    assert main(["embed", "torchvision/resnet18", str(flat), "-o", str(tmp_path / f"flat.{suffix}"), *VIEW]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("there.npz", "already exists"), ("out.txt", "must end with .npz or .parquet"), ("no/out.npz", "is not a folder")],
)
def test_embeddings_overwrite_nothing(
    small_data: Path, tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.npz").write_text("mine")
    assert main(["embed", "torchvision/resnet18", str(small_data / "val"), "-o", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "there.npz").read_text() == "mine"


if __name__ == "__main__":
    evaluate_all(*sys.argv[1:])
