"""The command line as a user meets it: exit codes, messages, and no waiting for them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bt_plugin
from bt_plugin.cli import main
from bt_plugin.cli.pretrain import print_summary
from bt_plugin.config.recipe_file import paths_in
from bt_plugin.runs.summary import Summary
from dali_pipelines import image_folder, open_source
from tests.tar_files import write_shard


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bt_plugin", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("command", ["pretrain", "check"])
def test_a_wrong_recipe_ends_at_once_with_code_2(small_recipe: Path, command: str, tmp_path: Path) -> None:
    begun_s = time.perf_counter()
    result = run(command, str(small_recipe), "optim.epohcs=3")
    assert time.perf_counter() - begun_s < 10
    assert result.returncode == 2
    assert "optim.epohcs: unknown key, with the value 3; did you mean epochs?" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"bt-plugin {bt_plugin.__version__}\n"


@pytest.mark.parametrize(
    ("words", "before"),
    [
        (["get", "cifar10", ""], "cifar10"),
        (["report", ""], "report"),
        (["scan", "data", "-o", ""], "-o"),
        (["check", "quickstart", ""], "quickstart"),
        ([""], "bt-plugin"),
    ],
)
def test_an_empty_argument_is_not_the_working_directory(
    words: list[str], before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert f"the argument after {before} is empty; check that its shell variable is set" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_mistakes_are_found_without_importing_torch() -> None:
    program = "import sys, bt_plugin.cli; bt_plugin.cli.main(['check', 'x']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_check_prints_what_a_recipe_means(small_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(small_recipe), "--world-size", "2"]) == 0
    output = capsys.readouterr().out
    assert "# 4 images a step on each of 2 rank(s)" in output
    assert "# 36 images: 4 steps an epoch, 12 steps in all" in output
    planned = rf"# (\S+) GiB of GPU memory on each rank with run.mixed_precision=no, by bt-plugin plan {small_recipe}"
    (gib,) = re.findall(planned, output)
    assert 1 <= float(gib) < 2, "mostly the context of CUDA"
    assert output.endswith(f"by bt-plugin plan {small_recipe} --world-size=2\n")
    assert main(["check", str(small_recipe), "optim.accumulation_steps=4"]) == 0
    assert "# 8 images a step on each of 1 rank(s), in 4 micro-batches of 2" in capsys.readouterr().out
    assert "backbone: torchvision/shufflenet_v2_x0_5" in output
    assert "blur_sigma_px: [0.1, 2.0]" in output


def test_check_names_the_plan_of_its_memory(small_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["model.projector=[64, 8192, 8192]", "--world-size", "2", "--num-images", "40"]
    assert main(["check", str(small_recipe), *changes]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    _, command = line.split("by bt-plugin ")
    assert main([*shlex.split(command), "--json"]) == 0
    (total,) = [part["low"] for part in json.loads(capsys.readouterr().out)["memory"] if part["name"] == "total"]
    assert line.startswith(f"# {total:.1f} GiB of GPU memory")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--world-size", "3"], "optim.global_batch_size: 8 does not divide over 3 ranks"),
        (["--world-size", "0"], "--world-size: 0"),
        (["--num-images", "7"], "8 is more than the 7 images"),
        (["data.train=nowhere"], "or give --num-images"),
    ],
)
def test_check_refuses(
    small_recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(["check", str(small_recipe), *arguments]) == 2
    assert named in capsys.readouterr().err


def test_demo_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo-data", str(tmp_path / "demo")]) == 0
    assert "3120 images written" in capsys.readouterr().out
    assert main(["demo-data", str(tmp_path / "demo")]) == 0
    assert "already there" in capsys.readouterr().out
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["demo-data", str(tmp_path / "full")]) == 2


@pytest.mark.slow
def test_a_bad_image_is_told_and_ends_a_run_if_it_shall(small_recipe: Path, small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for file in (small_data / "train" / "coffee").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "broken.jpg").write_text("not an image")
    changes = [f"data.train={folder}", "optim.global_batch_size=13"]
    result = run("pretrain", str(small_recipe), *changes, "data.max_bad_files=0")
    assert result.returncode == 2
    assert "broken.jpg" in result.stderr
    assert "Traceback" not in result.stderr
    result = run("pretrain", str(small_recipe), *changes, "data.max_bad_files=1")
    assert result.returncode == 0
    assert result.stderr.count("broken.jpg") == 1


def test_scan_lists_what_can_be_trained_on(
    small_recipe: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    for name in ("coffee", "rocket"):
        (folder / name).mkdir(parents=True)
        for file in (small_data / "train" / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    (folder / "coffee" / "broken, really.jpg").write_text("not an image")
    (folder / "rocket" / "empty.jpg").write_bytes(b"")
    assert main(["scan", str(folder), "-o", str(tmp_path / "found")]) == 0
    assert "24 good images" in capsys.readouterr().out
    bad = (tmp_path / "found" / "bad.csv").read_text()
    assert "broken, really.jpg" in bad
    assert "the file is empty" in bad
    good = open_source(tmp_path / "found" / "good.csv")
    assert good.classes == ("coffee", "rocket")
    assert np.bincount(good.labels).tolist() == [12, 12]

    assert main(["check", str(small_recipe), f"data.train={tmp_path}/found/good.csv"]) == 0
    assert main(["scan", str(folder), "-o", str(tmp_path / "found")]) == 2
    assert "already has the results of a scan" in capsys.readouterr().err
    assert main(["scan", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_scan_of_several_sources(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("coffee", "rocket"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").symlink_to(small_data / "val" / name)
    (tmp_path / "[rocket]").symlink_to(tmp_path / "rocket")
    both = f"[{tmp_path}/coffee, '{tmp_path}/[rocket]']"
    assert main(["scan", both, "-o", str(tmp_path / "found")]) == 0
    assert "8 good images" in capsys.readouterr().out
    assert len(open_source(tmp_path / "found" / "good.csv")) == 8
    for wrong in ("[a, 5]", "[]", "[a-{0..3}.tar]"):
        assert main(["scan", wrong, "-o", str(tmp_path / "other")]) == 2
        assert f"{wrong!r}: is not a list of paths" in capsys.readouterr().err


def test_a_path_with_brackets_is_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[a, b]").mkdir()
    assert paths_in("[a, b]") == "[a, b]"
    assert paths_in("[c, b]") == ["c", "b"]
    assert paths_in("[ab]/*.tar") == "[ab]/*.tar"


def test_scan_of_shards_and_of_too_large_images(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images have 96 x 96 pixels."""
    source = image_folder(small_data / "train")
    members = {f"{index}.jpg": source.read(index).tobytes() for index in range(3)} | {"3.jpg": b"not an image"}
    shard, found = write_shard(tmp_path / "a.tar", members), tmp_path / "found"
    assert main(["scan", str(shard), "-o", str(found)]) == 0
    assert "3 good images. They are not files" in capsys.readouterr().out
    assert "a.tar, member 3.jpg" in (found / "bad.csv").read_text()
    assert not (found / "good.csv").exists()
    assert main(["scan", str(shard), "-o", str(tmp_path / "large"), "--max-pixels", "9215"]) == 0
    assert "0 good images" in capsys.readouterr().out
    assert "96 x 96 pixels are more than max_pixels, 9215" in (tmp_path / "large" / "bad.csv").read_text()
    assert main(["scan", str(shard), "--max-pixels", "0"]) == 2
    assert "--max-pixels: 0 is not allowed; it must be 1 to 178956970" in capsys.readouterr().err


def test_check_of_a_network_that_cannot_be_planned(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nets_that_read.py").write_text("""
import torch

class Reads(torch.nn.Conv2d):
    def forward(self, images):
        features = super().forward(images)
        return features if features.sum().item() > 0 else -features

def build():
    return Reads(3, 8, 3)
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["check", str(small_recipe), "model.backbone=nets_that_read:build"]) == 0
    command = f"bt-plugin plan {small_recipe} model.backbone=nets_that_read:build"
    assert f"# {command} says why the GPU memory of this run" in capsys.readouterr().out


def test_a_full_disk_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.decode()}")
    try:
        assert main(["demo-data", str(tmp_path / "demo")]) == 2
        assert "No space left on device" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_end_of_a_run_prints_accuracies_with_intervals(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((trained_run / "summary.json").read_text())
    print_summary(Summary(**content))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "kNN top-1 linear top-1 view retrieval top-1" in lines
    at = lines.index(f"of {content['val_images']} images of {content['val_images']} images of 36 images")
    for line, network in zip(lines[at + 1 :], ("raw", "untrained", "calibrated", "pretrained")):
        shares = [content[key][network] for key in ("knn_top1", "linear_top1", "view_retrieval_top1")]
        assert re.findall(r" ([\d.]+%) \(", line) == [f"{share:.1%}" for share in shares]
        assert line.count("% to ") == 3
    print_summary(Summary(**content | {"view_retrieval_top1": None, "view_retrieval_images": None}))
    assert "retrieval" not in capsys.readouterr().out
    none = dict.fromkeys(("knn_top1", "linear_top1", "val_images", "view_retrieval_top1", "view_retrieval_images"))
    print_summary(Summary(**content | none))
    printed = capsys.readouterr().out
    assert "accuracy" not in printed
    assert "kNN evaluation is off: it needs eval.knn, and labels of the same classes" in printed
