"""What `import` and `export` write is there whole or not at all, on a full disk and where nothing can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bt_plugin.cli import main
from bt_plugin.errors import FileError
from bt_plugin.formats import FORMATS, convert
from bt_plugin.runs.new_path import new_path
from bt_plugin.weights.export_folder import write_run_export
from bt_plugin.weights.safetensors_file import save_tensors
from tests.bt_plugin.formats.exports import exported
from tests.bt_plugin.weights.foreign_weights import resnet, saved


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("small") / "run", backbone="torchvision/resnet18")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk_is_told(run: Path, full_disk: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    out = full_disk / f"out{'.pt2' if to == 'torch-export' else '.pth'}"
    assert main(["export", str(run), "--to", to, "-o", str(out)]) == 2
    assert f"-o: {out}: No space left on device; free disk space" in capsys.readouterr().err
    assert list(full_disk.iterdir()) == []


def test_an_import_onto_a_full_disk_is_told(
    tmp_path: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(resnet().state_dict(), tmp_path / "a.pth")
    assert main(["import", str(path), "-o", str(full_disk / "out")]) == 2
    assert f"-o: {full_disk}/out: No space left on device" in capsys.readouterr().err
    assert list(full_disk.iterdir()) == []


def test_a_run_exports_onto_a_full_disk(full_disk: Path) -> None:
    from bt_plugin.config.recipe import Recipe
    from bt_plugin.models.from_recipe import build_model

    content = {"data": {"train": "a"}, "model": {"backbone": "torchvision/resnet18", "projector": [16, 8]}}
    recipe = Recipe.model_validate(content | {"run": {"output_dir": str(full_disk)}})
    with pytest.raises(FileError, match=r"export/backbone\.safetensors: No space left on device"):
        write_run_export(build_model(recipe), recipe, run_dir=full_disk, step=1)
    assert [path.name for path in full_disk.rglob("*")] == ["export"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("/dev/null/x", "Not a directory; a part of the path is a file"),
        ("/proc/x/y.pth", "/proc/x/y.pth: "),
        (f"{'x' * 300}.pth", "File name too long; use a shorter name"),
        ("a.pth/b.pth", "Not a directory"),
    ],
)
def test_what_cannot_be_written_is_told_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    out: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_text("no weights")
    monkeypatch.setattr("bt_plugin.weights.export_folder.build_backbone", lambda *_: pytest.fail("the work has begun"))
    for command in (["export", str(run), "--to", "torchvision"], ["import", "a.pth"]):
        assert main([*command, "-o", out]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: -o: ")
        assert message in error
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_link_that_leads_nowhere_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out.pth").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileError, match=r"-o: .*out\.pth exists, and is not overwritten"):
        convert(run, "torchvision", tmp_path / "out.pth")


def test_a_new_path_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / f"{'long' * 60}.bin"

    def write(fails: bool = False) -> None:
        with new_path(path, "-o") as partial:
            assert partial.name == path.name
            partial.write_bytes(b"whole")
            assert not path.exists()
            assert not fails, "while it is written"

    write()
    assert path.read_bytes() == b"whole"
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(FileError, match="exists, and is not overwritten"):
        write()
    path.unlink()
    with pytest.raises(AssertionError, match="while it is written"):
        write(fails=True)
    assert os.listdir(path.parent) == []


def test_a_file_of_tensors_has_the_permissions_of_any(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_tensors({"a": torch.ones(2).t()}, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("name", ["torchvision//{}/outside/x", "torchvision/../../x", "timm/resnet5", "nothing"])
def test_an_export_writes_nowhere_else(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """model.json names the default output, and whoever sends the folder may have written it."""
    copy = shutil.copytree(run / "export", tmp_path / "copy")
    text = (copy / "model.json").read_text()
    (copy / "model.json").write_text(text.replace("torchvision/resnet18", name.format(tmp_path)))
    assert main(["export", str(copy), "--to", "safetensors"]) == 2
    assert f"error: {copy}/model.json: model.backbone: " in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["copy"]


def test_an_imported_transformer_is_tried_at_its_own_size(tmp_path: Path) -> None:
    """Nothing says which images an imported network was trained on."""
    import timm

    source = saved(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "a.pth")
    assert main(["import", str(source), "-o", str(tmp_path / "in"), "--backbone", "timm/test_vit"]) == 0
    assert convert(tmp_path / "in", "torch-export")[0].exists()


def test_a_size_that_the_network_cannot_take_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = {"dynamic_img_size": False}
    run = exported(tmp_path / "run", size_px=48, backbone="timm/vit_tiny_patch16_224", args=fixed)
    assert main(["export", str(run), "--to", "torch-export"]) == 2
    error = capsys.readouterr().err
    assert "takes no images of (3, 48, 48)" in error or "torch cannot trace the backbone" in error
