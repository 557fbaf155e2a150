"""model.json: an old one is read, and the error of a damaged or foreign one names file and key."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bt_plugin.errors import FileError, WeightsError
from bt_plugin.weights.model_file import ModelDescription, export_folder, read_model_file

VIEW = {
    "size_px": 32,
    "resize_px": 36,
    "interpolation": "bilinear",
    "channels": 3,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 1],
}
MODEL = {"backbone": "torchvision/resnet18", "stem": "standard", "in_chans": 3, "projector": [16, 8]}
GOOD = {"method": "barlow_twins", "model": MODEL, "feature_dim": 512, "embedding_dim": 8, "eval_view": VIEW}


def read(folder: Path, content: Any) -> ModelDescription:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "model.json").write_bytes(data)
    return read_model_file(folder)


def read_or_told(folder: Path, content: Any) -> ModelDescription | None:
    """The description, or None after an error that names the file; any other error is the test's."""
    try:
        return read(folder, content)
    except WeightsError as error:
        told = str(error)
    assert told.startswith(f"{folder}/model.json")
    return None


def test_what_is_there_is_read(tmp_path: Path) -> None:
    run = GOOD | {"seed": 3, "step": 9, "optim": {"epochs": 2}, "versions": {"torch": "2"}, "newer": {"a": [1, None]}}
    description = read(tmp_path, run)
    assert (description.model.backbone, description.model.projector, description.step) == (
        "torchvision/resnet18",
        [16, 8],
        9,
    )
    assert description.eval_view is not None
    assert description.eval_view.std == [0.229, 0.224, 1]
    imported = {"method": None, "model": MODEL | {"projector": None, "zero_init_residual": True}, "feature_dim": 512}
    description = read(tmp_path, imported | {"source": {"kind": "official", "file": "/a.pth", "dropped": []}})
    assert (description.embedding_dim, description.eval_view, description.versions) == (None, None, {})
    assert description.source is not None
    assert description.source.file == "/a.pth"
    gray = GOOD | {"eval_view": VIEW | {"channels": 1}, "model": MODEL | {"in_chans": 1}}
    assert read(tmp_path, gray).model.in_chans == 1
    assert read(tmp_path, GOOD | {"model": MODEL | {"backbone": "timm/resnet50.a1_in1k"}}).model.stem == "standard"


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    assert export_folder(tmp_path) == tmp_path
    (tmp_path / "export" / "model.json").touch()
    assert export_folder(tmp_path) == tmp_path / "export"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model=None is not allowed"),
        ({"model": {**MODEL, "backbone": "torchvision//tmp/x"}}, "model.backbone: 'torchvision//tmp/x' is not allowed"),
        ({"model": {**MODEL, "backbone": "timm/resnet5"}}, "model.backbone: timm/resnet5 does not exist"),
        ({"model": {**MODEL, "backbone": 5}}, "model.backbone=5 is not allowed"),
        ({"model": {**MODEL, "backbone": ["x" * 9999]}}, r"model\.backbone=\['x{78}\.\.\. is not allowed"),
        ({"model": {**MODEL, "stem": "tiny"}}, "model.stem='tiny' is not allowed: input should be 'standard' or"),
        ({"model": {**MODEL, "in_chans": 0}}, "model.in_chans=0 is not allowed"),
        ({"model": {**MODEL, "in_chans": 4097}}, "model.in_chans=4097 is not allowed"),
        ({"model": {**MODEL, "in_chans": "3"}}, "model.in_chans='3' is not allowed"),
        ({"model": {**MODEL, "in_chans": True}}, "model.in_chans=True is not allowed"),
        ({"model": {**MODEL, "in_chans": 10**400}}, r"model.in_chans=10{79}\.\.\. is not allowed"),
        ({"model": {**MODEL, "projector": [8, -1]}}, "model.projector.1=-1 is not allowed"),
        ({"model": {**MODEL, "projector": [10**12]}}, "model.projector.0=10+ is not allowed"),
        ({"model": {"backbone": "torchvision/resnet18"}}, "the key model.stem is missing"),
        ({"feature_dim": 512.0}, "feature_dim=512.0 is not allowed"),
        ({"eval_view": {**VIEW, "size_px": 10**9}}, "eval_view.size_px=1000000000 is not allowed"),
        ({"eval_view": {**VIEW, "resize_px": 8}}, "resize_px=8 must be at least size_px=32"),
        ({"eval_view": {**VIEW, "std": [1, 0, 1]}}, "eval_view.std.1=0 is not allowed"),
        ({"eval_view": {**VIEW, "mean": [float("nan")] * 3}}, "eval_view.mean.0=nan is not allowed"),
        ({"eval_view": {**VIEW, "mean": [0.5]}}, "mean and std must have 3 values each for channels=3"),
        ({"eval_view": {**VIEW, "interpolation": "\x1b[2J"}}, r"interpolation='\\x1b\[2J' is not allowed"),
        ({"versions": ["a"]}, "versions="),
        ({"optim": [1]}, r"optim=\[1\] is not allowed"),
        ({"seed": "7"}, "seed='7' is not allowed"),
    ],
)
def test_a_wrong_value_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=rf"{tmp_path}/model\.json: .*{message}") as refused:
        read(tmp_path, GOOD | changes)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe{\x00}\x00", "is not valid JSON"),
        (b'{"method": "\xe9"}', "is not valid JSON"),
        (b"[" * 100_000, "recursion limit exceeded"),
        (b'{"a":' * 100_000, "recursion limit exceeded"),
        (b"null", "the content=None is not allowed"),
        (b"[]", r"the content=\[\] is not allowed"),
        (b"{}", "the key model is missing"),
        (json.dumps(GOOD).encode()[:-20], "is not valid JSON"),
        (json.dumps(GOOD).encode() + b" " * 2**20, "at most 1048576 are read"),
    ],
)
def test_no_json_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=rf"{tmp_path}/model\.json.*{message}"):
        read(tmp_path, content)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"model\.json: No such file"):
        read_model_file(tmp_path)
    os.mkfifo(tmp_path / "model.json")
    with pytest.raises(FileError, match=r"model\.json: is a pipe; only regular files are read"):
        read_model_file(tmp_path)
    (tmp_path / "model.json").unlink()
    (tmp_path / "model.json").mkdir()
    with pytest.raises(FileError, match=r"model\.json: is a folder"):
        read_model_file(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*GOOD, "versions", "source", "step", "newer"]), st.sampled_from([*MODEL, *VIEW]), JSON)
def test_any_value_is_taken_or_told(tmp_path: Path, key: str, inner: str, value: Any) -> None:
    content: dict[str, Any] = json.loads(json.dumps(GOOD))
    for changed in (content | {key: value}, content | {"model": MODEL | {inner: value}}):
        description = read_or_told(tmp_path, changed)
        assert description is None or description.model.backbone == changed["model"]["backbone"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_told(tmp_path: Path, data: st.DataObject) -> None:
    """A flipped bit may leave another valid description; a crash never."""
    content = bytearray(json.dumps(GOOD).encode())
    content = content[: data.draw(st.integers(0, len(content)))]
    for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=3)):
        if content:
            content[place] ^= data.draw(st.integers(1, 255))
    read_or_told(tmp_path, bytes(content))
