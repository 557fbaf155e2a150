"""What is wrong before a run, each with its remedy."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from bt_plugin.cli import main
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.tools import doctor
from bt_plugin.tools.doctor import Finding, examine_machine, examine_recipe


@pytest.fixture(autouse=True)
def _alone() -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()


def wrong(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, f"{finding.what}; {finding.remedy}") for finding in findings if finding.level != "ok"]


def test_a_sound_recipe_has_no_errors(small_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(small_recipe)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    for part in ("torch ", "of memory free", "one rank", "data.train: 36 images, 3 classes", "4 steps per epoch"):
        assert any(part in line for line in lines), part


def test_the_machine_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "data.train" not in capsys.readouterr().out


def test_all_errors_are_found_at_once(small_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    options = ["data.train=nowhere", "optim.global_batch_size=7", "optim.accumulation_steps=2"]
    assert main(["doctor", str(small_recipe), *options]) == 1
    errors = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    assert len(errors) == 3
    for key in ("nowhere: does not exist", "optim.global_batch_size: 7", "run.output_dir"):
        assert sum(key in line for line in errors) == 1, key


@pytest.mark.parametrize(("bad", "level"), [(4, "warning"), (36, "error")])
def test_images_that_cannot_be_read(small_recipe: Path, small_data: Path, tmp_path: Path, bad: int, level: str) -> None:
    data = shutil.copytree(small_data, tmp_path / "data")
    for path in sorted((data / "train").rglob("*.jpg"))[:bad]:
        path.write_bytes(path.read_bytes()[:300])
    findings = wrong(examine_recipe(load_recipe(small_recipe, [f"data.train={data}/train"])))
    assert [found for found, _ in findings] == [level]
    assert f"{bad} of 36 randomly drawn images are unreadable, for example " in findings[0][1]
    assert "bt-plugin scan" in findings[0][1]


def test_a_disk_that_is_too_small(small_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("", (), {"free": free}))
    (finding,) = wrong(examine_recipe(load_recipe(small_recipe, [])))
    assert finding[0] == "error"
    assert "0.0 GiB free; checkpoints of" in finding[1]
    assert "run.keep_checkpoints" in finding[1]


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that gets its packages as files."""

    def requires(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", requires)
    assert ("warning", "bt-plugin is not installed, so its packages are not checked; pip install -e .") in wrong(
        list(examine_machine())
    )


def test_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=99", "timm>=99; extra == 'timm'", "nosuch>=1"])
    errors = [text for level, text in wrong(examine_machine()) if level == "error"]
    assert len(errors) == 2
    assert errors[0].endswith("pip install 'torch>=99'")
    assert errors[1] == "nosuch missing; pip install 'nosuch>=1'"


@pytest.mark.parametrize(
    ("wheels", "driver", "level", "said"),
    [
        (["nvidia-dali-cuda130"], "580.65.06", "ok", "nvidia-dali-cuda130 2.4.0 and driver 580.65.06"),
        (["nvidia-dali-cuda130"], "570.10", "error", "pip install 'bt-plugin[cuda12]'"),
        (["nvidia-dali-cuda120"], "570.10", "ok", "nvidia-dali-cuda120"),
        (["nvidia-dali-cuda120"], "590.1", "ok", "nvidia-dali-cuda120"),
        ([], "570.10", "error", "pip install 'bt-plugin[cuda12]'"),
        ([], "580.1", "error", "pip install 'bt-plugin[cuda13]'"),
        (["nvidia-dali-cuda120", "nvidia-dali-cuda130"], "580.1", "error", "two of DALI's wheels"),
    ],
)
def test_dalis_wheel_beside_the_driver(
    monkeypatch: pytest.MonkeyPatch, wheels: list[str], driver: str, level: str, said: str
) -> None:
    def version(name: str) -> Any:
        if name not in wheels:
            raise PackageNotFoundError(name)
        return "2.4.0"

    monkeypatch.setattr(doctor, "version", version)
    finding = doctor._dali(driver)
    assert finding.level == level
    assert said in f"{finding.what}; {finding.remedy}"


@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        ("13.0", "this torch is built for CUDA 13.0. Install a newer driver, or pip install 'bt-plugin[cuda12]'"),
        ("12.8", "this torch is built for CUDA 12.8. Install a newer driver"),
        (None, "this torch is built without CUDA. Install the one that https://pytorch.org names for the driver"),
    ],
)
def test_a_torch_that_sees_no_gpu(monkeypatch: pytest.MonkeyPatch, cuda: str | None, said: str) -> None:
    monkeypatch.setattr(doctor, "_driver", lambda: "570.10")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    (finding,) = doctor._devices()
    assert finding == ("error", "NVIDIA driver 570.10, but torch sees no GPU", said)


@pytest.mark.slow
def test_the_planned_memory(small_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bt_plugin.tools.planned_memory import planned_gib

    # As on a rank of a launched run.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = load_recipe(small_recipe)
    assert 1 < planned_gib(recipe, world_size=2, fsdp=False, num_images=36) < 2
    with pytest.raises(ValueError, match=r"optim.global_batch_size: \d+ does not divide over 7 ranks"):
        planned_gib(recipe, world_size=7, fsdp=False, num_images=36)


@pytest.mark.gpu
def test_the_planned_memory_is_compared_with_the_free_one(small_recipe: Path) -> None:
    findings = examine_recipe(load_recipe(small_recipe, ["run.device=gpu"]))
    (found,) = [finding for finding in findings if "by bt-plugin plan" in finding.what]
    assert found.level == "ok"
