"""Files of weights with Python objects: nothing of them is run, and no command runs what is not known."""

from __future__ import annotations

import argparse
import builtins
import collections
import functools
import io
import operator
import os
import pathlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bt_plugin.errors import WeightsError
from bt_plugin.weights.read_weights import read_weights
from tests.bt_plugin.weights.foreign_weights import resnet, saved


class Called:
    """What a pickle calls when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Called(eval, "open('ran', 'w')"), r"builtins\.eval"),
        (Called(exec, "open('ran', 'w')"), r"builtins\.exec"),
        (Called(getattr, "text", "upper"), r"builtins\.getattr"),
        (Called(setattr, argparse.Namespace(), "a", 1), r"builtins\.setattr"),
        (Called(builtins.__import__, "this"), r"builtins\.__import__"),
        (Called(subprocess.Popen, ["touch", "ran"]), r"subprocess\.Popen"),
        (Called(os.open, "ran", os.O_CREAT), r"posix\.open"),
        (Called(functools.partial, print), r"functools\.partial"),
        (Called(operator.methodcaller, "upper"), r"operator\.methodcaller"),
        (Called(torch.hub.load, "a/b", "c"), r"torch\.hub\.load"),
        (Called(np.load, "a.npy"), r"numpy\.load"),
        (Called(pathlib.Path.touch, pathlib.Path("ran")), r"without a name|touch|getattr"),
        (Called(torch.nn.init.ones_, 1), r"torch\.nn\.init\.ones_"),
        (pytest.raises, r"_pytest\.\w+\.raises"),
    ],
)
def test_no_command_loads_what_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, named: str, protocol: int, new_format: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    # The harmless object beside it changes nothing.
    file = {"a": argparse.Namespace(lr=0.1), "state_dict": {"b": torch.ones(1)}, "c": content}
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new_format}
    with pytest.raises(WeightsError, match=named) as refused:
        read_weights(saved(file, tmp_path / "a.ckpt", **options))
    message = str(refused.value)
    assert "is refused: loading it would call" in message
    assert "Ask its author for a .safetensors file" in message
    assert "python -c" not in message
    assert "weights_only" not in message
    assert not (tmp_path / "ran").exists()


def hidden(module: str, name: str) -> bytes:
    """A protocol-4 pickle that pushes harmless names over those that it calls."""
    text = lambda word: b"\x8c" + bytes([len(word)]) + word.encode()  # noqa: E731
    pushed = text(module) + text(name) + text("argparse") + text("Namespace") + b"00"
    return b"\x80\x04" + pushed + b"\x93" + text("touch ran") + b"\x85R."


def test_names_cannot_be_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = io.BytesIO()
    torch.save({"a": argparse.Namespace()}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile("a.pth", "w") as target:
        for entry in source.infolist():
            attack = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, hidden("os", "system") if attack else source.read(entry))
    with pytest.raises(WeightsError, match="would call objects without a name") as refused:
        read_weights("a.pth")
    assert "python -c" not in str(refused.value)
    torch.load("a.pth", weights_only=False)
    assert Path("ran").exists(), "it would have been run"


@pytest.mark.parametrize(
    "settings",
    [
        argparse.Namespace(lr=0.1),
        {"a": collections.defaultdict(list), "b": pathlib.Path("/data"), "c": np.float64(0.5)},
        {"rng": np.random.default_rng(0).integers(5, size=3), "kind": np.dtype("float32")},
        nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_settings_have_a_way_out(tmp_path: Path, settings: Any) -> None:
    path = saved({"state_dict": resnet().state_dict(), "settings": settings}, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match="contains Python objects besides tensors") as refused:
        read_weights(path)
    assert "weights_only=False" in str(refused.value)


def test_settings_of_omegaconf_have_a_way_out(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    configuration = omegaconf.OmegaConf.create({"lr": 0.1, "layers": [1, 2], "name": "a"})
    path = saved({"state_dict": resnet().state_dict(), "hyper_parameters": configuration}, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=r"contains Python objects besides tensors \(.*omegaconf"):
        read_weights(path)
